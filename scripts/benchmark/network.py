"""Cases of the network and of what surrounds it, without data workers."""

import os
import tempfile

import numpy as np
import torch

from benchmark import bundle
from benchmark.case import data_loader, repeat, rounds
from benchmark.counting import HostReads, count_operators


class _Heatmaps(torch.nn.Module):
    """Stand in for a network: return heatmaps that it holds."""

    def __init__(self, shape):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.maps = torch.nn.Parameter(torch.rand(shape, generator=generator))

    def forward(self, img):
        if len(img) == len(self.maps):
            return [self.maps * 1]
        return [self.maps[:1].expand(len(img), -1, -1, -1) * 1]


def _without_network(cfg, batch):
    """Build the config's detector with ready heatmaps as its network."""
    from mmpose.models import build_posenet

    model = build_posenet(cfg.model)
    width, height = cfg.data_cfg.heatmap_size
    joints = cfg.data_cfg.num_output_channels
    model.backbone = _Heatmaps((batch, joints, height, width))
    del model.keypoint_head
    return model


def outside_network(cfg, batch, steps):
    """Run train_step and backward of all that is not the network.

    That is the loss, the accuracy of the log and the log's values, read
    after the last of ``steps`` steps as a log that is due.
    """
    model = _without_network(cfg, batch)
    shape = model.backbone.maps.shape
    generator = torch.Generator().manual_seed(1)
    inputs = dict(
        img=torch.zeros(batch, 3, 4, 4),
        target=torch.rand(shape, generator=generator),
        target_weight=torch.ones(batch, shape[1], 1),
        img_metas=[dict() for _ in range(batch)],
    )

    def step():
        model.zero_grad()
        outputs = model.train_step(inputs, None)
        outputs['loss'].backward()
        return outputs

    def work():
        for _ in range(steps):
            outputs = step()
        list(outputs['log_vars'].values())  # reads them

    with HostReads() as reads:
        outputs = step()
    facts = dict(
        operators=count_operators(step),
        host_reads=len(reads.names),
        host_bytes=reads.bytes,
        result=float(outputs['loss'].detach()),
    )
    yield from rounds(work, steps, facts)


def evaluation(cfg, people, network, samples_per_gpu=1, fold=False, amp=False):
    """Test people with flip, from their pictures to joints in the picture.

    Without ``network`` ready heatmaps take the place of its output. ``fold``
    and ``amp`` do as the options of ``test.py``.
    """
    from mmcv.parallel import MMDataParallel
    from mmpose.apis import single_gpu_test
    from mmpose.datasets import build_dataset
    from mmpose.models import build_posenet

    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    torch.manual_seed(0)
    model = build_posenet(cfg.model) if network else _without_network(cfg, 1)
    bundle.quicken(model.eval(), fold, amp)
    model = MMDataParallel(model, device_ids=None)
    batches = data_loader(
        repeat(dataset, people),
        samples_per_gpu,
        shuffle=False,
        drop_last=False,
    )
    batches.in_threads = True

    def work():
        results = single_gpu_test(model, batches)
        joints = np.concatenate([one[0] for one in results])
        # Rounded: batches change the last bits of a convolution.
        return dict(result=joints[:2, :, :2].round(2).tolist())

    yield from rounds(work, people)


def inference(cfg, fold=False, amp=False, onnx=False):
    """Run the network on one crop; ``onnx`` does so in ONNX Runtime."""
    from mmpose.models import build_posenet

    torch.manual_seed(0)
    model = build_posenet(cfg.model).eval()
    width, height = cfg.data_cfg.image_size
    img = torch.rand(1, 3, height, width)
    session = _exported(model, cfg) if onnx else None
    bundle.quicken(model, fold, amp)

    def work():
        if onnx:
            session.run(None, dict(img=img.numpy()))
        else:
            with torch.no_grad():
                model.keypoint_head(model.backbone(img))

    work()
    yield from rounds(work, 1)


def _exported(model, cfg):
    """Export a model's network and load it into ONNX Runtime."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'network.onnx')
        bundle.export(model, cfg, path)
        return onnxruntime.InferenceSession(
            path, settings, providers=['CPUExecutionProvider']
        )
