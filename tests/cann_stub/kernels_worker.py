"""Compare the stand-in's operators with the CPU's, one call each.

Usage: kernels_worker.py    prints what differs, and which were not called
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import torch_npu  # noqa: F401

import counts

A = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
B = A.flip(1) + 0.5
HIGH = A.abs() + 0.1
N = torch.tensor([[5, -3, 2, 7], [1, 0, 9, 4], [8, 6, -2, 3]])
MASK = A > 0
INDEX = N.abs() % 3
IMAGE = A.repeat(2, 1).reshape(1, 2, 3, 4)
ONE = torch.tensor(0.5)

# One word is the name in torch of a function of one tensor.
CALLS = """
abs(A) ceil(A) exp(A) floor(A) isfinite(A) isinf(A) log(HIGH) neg(A)
reciprocal(HIGH) relu(A) round(A) rsqrt(HIGH) sigmoid(A) sign(A) sqrt(HIGH)
tanh(A) trunc(A) bitwise_not(MASK) logical_not(MASK) maximum(A,B)
minimum(A,B) add(A,B,alpha=2) add(A,2) sub(A,B,alpha=2) sub(A,2) rsub(A,2)
mul(A,B) mul(A,2) div(A,HIGH) div(A,3) pow(HIGH,2.5) pow(HIGH,A) pow(2,A)
div(N,3,rounding_mode='floor') div(N,INDEX+1,rounding_mode='trunc')
remainder(N,3) remainder(N,INDEX+1) clamp(A,-1,1) clamp(A,min=0)
clamp(A,max=0) addcmul(A,B,HIGH,value=2) addcdiv(A,B,HIGH,value=2)
lerp(A,B,0.25) lerp(A,B,HIGH) where(MASK,A,B) logical_and(MASK,MASK)
logical_or(MASK,MASK) bitwise_and(N,3) bitwise_and(N,N) bitwise_or(N,3)
bitwise_or(N,INDEX) masked_fill(A,MASK,2.0) masked_fill(A,MASK,ONE)
eq(N,3) ge(N,3) gt(N,3) le(N,3) lt(N,3) ne(N,3) eq(N,INDEX) ge(N,INDEX)
gt(N,INDEX) le(N,INDEX) lt(N,INDEX) ne(N,INDEX)
sum(A) sum(A,1) mean(A) mean(A,1) max(A) min(A) amax(A,1) amin(A,1)
max(A,1) min(A,1) argmax(A,1) topk(A,2,1) all(MASK) all(MASK,1) any(MASK)
any(MASK,1) linalg.vector_norm(A) linalg.vector_norm(A,2,1)
gather(A,1,INDEX) scatter(A,1,INDEX[:,:1],B) scatter(A,1,INDEX[:,:1],2.0)
scatter_add(A,1,INDEX[:,:1],B) index_select(A,1,INDEX[0]) nonzero(MASK)
cat([A,B],1) stack([A,B]) flip(A,[0]) matmul(A,B.t()) mm(A,B.t())
bmm(IMAGE[0],IMAGE[0].transpose(1,2)) addmm(ONE,A,B.t(),beta=2,alpha=3)
softmax(A,1) log_softmax(A,1)
_foreach_add([A,B],2) _foreach_add([A,B],[B,A],alpha=2)
_foreach_add([A,B],[1.,2.]) _foreach_sub([A,B],2)
_foreach_sub([A,B],[B,A],alpha=2) _foreach_mul([A,B],2)
_foreach_mul([A,B],[B,A]) _foreach_mul([A,B],[1.,2.]) _foreach_div([A,B],2)
_foreach_div([A,B],[HIGH,HIGH]) _foreach_div([A,B],[1.,2.])
_foreach_neg([A,B]) _foreach_reciprocal([HIGH,HIGH])
_foreach_sqrt([HIGH,HIGH]) _foreach_norm([A,B]) _foreach_lerp([A],[B],0.25)
_foreach_addcmul([A],[B],[HIGH],2) _foreach_addcdiv([A],[B],[HIGH],2)
_foreach_addcdiv([A,B],[B,A],[HIGH,HIGH],torch.tensor([2.,3.]))
""".split()

FUNCTIONS = dict(
    index=lambda a, n: a[n[0] % 3],
    index_mask=lambda a, n: a[n > 2],
    put=lambda a, n: a.clone().index_put_((n[:, 0] % 3,), a),
    repeat=lambda a, n: a.repeat(2, 3),
    pad=lambda a, n: F.pad(a, (1, 2), value=3.0),
    casts=lambda a, n: (a.half(), a.long(), n.float(), n.int(), n.bool()),
    strided=lambda a, n: a.t() + n.t()[:, :3],
    fill=lambda a, n: (torch.ones_like(a), torch.full_like(a, 3), a.new([2])),
    arange=lambda a, n: torch.arange(1, 9, 2, device=a.device),
    in_place=lambda a, n: (
        a.clone().add_(a).mul_(a).sub_(1).div_(a).add_(2).div_(3).mul_(4),
        a.abs().add_(1).sqrt_().reciprocal_().neg_(),
        a.clone().addcmul_(a, a).addcdiv_(a, a).lerp_(a, 0.5).lerp_(a, a),
        a.clone().relu_().sub_(a).pow_(2),
        n.clone().bitwise_and_(7).bitwise_or_(8).remainder_(5),
        n.clone().div_(3, rounding_mode='floor'),
        n.clone().eq_(3),
        a.clone().masked_fill_(a > 0, 1.0).zero_(),
    ),
    half=lambda a, n: (a.half() + a.half()) @ a.half().t(),
    mse=lambda a, n: F.mse_loss(a, a * 2),
    nearest=lambda a, n: F.interpolate(a[None, None], scale_factor=2.0),
    equal=lambda a, n: torch.tensor([torch.equal(a, a), torch.equal(a, n)]),
)


def moved(value, device):
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)):
        return type(value)(moved(one, device) for one in value)
    return value


def names(device):
    here = dict(A=A, B=B, HIGH=HIGH, N=N, MASK=MASK, INDEX=INDEX, IMAGE=IMAGE)
    here = {name: value.to(device) for name, value in here.items()}
    return dict(here, ONE=ONE.to(device), torch=torch)


def flat(result):
    if isinstance(result, torch.Tensor):
        return [result.cpu()]
    return [tensor for one in result for tensor in flat(one)]


def differences():
    """Yield the calls whose results are not the CPU's."""
    calls = {call: None for call in CALLS}
    calls.update(FUNCTIONS)
    for name, function in calls.items():
        results = []
        for device in ('cpu', 'npu'):
            try:
                if function is None:
                    # Of the list above.
                    result = eval('torch.' + name, names(device))  # noqa: S307
                else:
                    result = function(A.to(device), N.to(device))
                results.append(flat(result))
            except (IndexError, RuntimeError, TypeError) as error:
                text = str(error).strip().splitlines()
                results.append([f'{device}: {text[0]} {text[-1]}'])
        for cpu, npu in zip(*results):
            same = type(cpu) is type(npu) and not isinstance(cpu, str)
            if not same or cpu.dtype != npu.dtype:
                yield f'{name}: {cpu} {npu}'
            elif not torch.allclose(
                cpu.double(), npu.double(), 1e-6, 1e-6, equal_nan=True
            ):
                yield f'{name}: {cpu.tolist()} {npu.tolist()}'


def uncalled():
    """Return the operators that nothing here has launched."""
    table = Path(__file__).with_name('OPERATORS.md').read_text().splitlines()
    listed = {line[3:-1] for line in table if line.startswith('- `')}
    return sorted(listed - set(counts.report()['kernels']))


if __name__ == '__main__':
    found = list(differences())
    print('\n'.join(found))
    print('not called:', ' '.join(uncalled()), file=sys.stderr)
    sys.exit(bool(found))
