"""The few calls of CANN's Python interface that an OM is run with.

An "OM" here is a text that names an ONNX file and its batches; ONNX Runtime
computes it. Memory has addresses that only these calls can read.
"""

import json
import types

import numpy as np
import onnxruntime

TYPES = {'tensor(float)': 0, 'tensor(float16)': 1, 'tensor(uint8)': 4}
NUMPY = {0: np.float32, 1: np.float16, 4: np.uint8}
BATCH_INPUT = 'ascend_mbatch_shape_data'


def write_om(path, onnx, batches=(1,), form='static'):
    """Write an OM.

    Args:
        path (pathlib.Path): The file.
        onnx (str): What it was made from.
        batches (Sequence[int]): Batches; one if it is static.
        form (str): 'static', 'batch' (``--dynamic_batch_size``), 'dims'
            (``--dynamic_dims``) or 'any' (no batches were given).

    Returns:
        str: The path.
    """
    facts = dict(onnx=str(onnx), batches=list(batches), form=form)
    path.write_text(json.dumps(facts))
    return str(path)


def make():
    """Make a module ``acl``.

    Returns:
        types.SimpleNamespace: With ``calls``, the names of the calls, and
        ``held``, what is allocated.
    """
    held, models, datasets, calls = {}, {}, {}, []
    chosen = {}
    numbers = iter(range(4096, 2**30, 64))

    def told(name, status=0, value=None):
        calls.append(name)
        return status if value is None else (value, status)

    def allocate(size, *_):
        address = next(numbers)
        held[address] = bytearray(size)
        return address, 0

    def free(address):
        del held[address]
        return 0

    def copy(target, room, source, size, way):
        calls.append(f'memcpy {way}')
        if size > room or size > len(held[source]):
            return 107002
        held[target][:size] = held[source][:size]
        return 0

    def bytes_to_ptr(content):
        address = next(numbers)
        held[address] = bytearray(content)
        return address

    def load(path):
        try:
            with open(path) as file:
                facts = json.load(file)
        except ValueError:
            return 0, 500002
        number = len(models) + 1
        session = onnxruntime.InferenceSession(
            facts['onnx'], providers=['CPUExecutionProvider']
        )
        models[number] = dict(facts, session=session)
        return number, 0

    described = {}

    def get_desc(description, model):
        described[description] = models[model]
        return 0

    def shape_of(description, side, batch):
        model = described[description]
        part = getattr(model['session'], f'get_{side}puts')()[0]
        rest = [n if isinstance(n, int) else None for n in part.shape[1:]]
        if None in rest:
            first = model['session'].get_inputs()[0]
            kind = NUMPY[TYPES[first.type]]
            zeros = np.zeros([1, *first.shape[1:]], kind)
            rest = list(
                model['session'].run(None, {first.name: zeros})[0].shape[1:]
            )
        return [batch, *rest]

    def dims(description, side):
        model = described[description]
        dynamic = model['form'] != 'static'
        batch = max(model['batches'])
        if side == 'in' and dynamic:
            batch = -1
        return dict(dims=shape_of(description, side, batch)), 0

    def kind(description, side):
        part = getattr(described[description]['session'], f'get_{side}puts')()
        return TYPES[part[0].type]

    def size(description, index, side):
        if index:
            return 8
        batch = max(described[description]['batches'])
        shape = shape_of(description, side, batch)
        width = np.dtype(NUMPY[kind(description, side)]).itemsize
        return int(np.prod(shape)) * width

    def dynamic_batch(description):
        model = described[description]
        batches = model['batches'] if model['form'] == 'batch' else []
        return dict(batchCount=len(batches), batch=batches), 0

    def gears(description):
        model = described[description]
        return model['batches'] if model['form'] == 'dims' else []

    def index_of(description, name):
        return (1, 0) if name == BATCH_INPUT else (0, 100000)

    def choose(model, batch, form):
        facts = models[model]
        if facts['form'] != form or batch not in facts['batches']:
            return 145013
        calls.append(f'batch {batch}')
        chosen[model] = batch
        return 0

    def execute(model, inputs, outputs):
        facts = models[model]
        first = facts['session'].get_inputs()[0]
        batch = facts['batches'][0]
        if facts['form'] != 'static':
            if len(datasets[inputs]) != 2 or model not in chosen:
                return 145014
            batch = chosen.pop(model)
        number = NUMPY[TYPES[first.type]]
        shape = [batch, *first.shape[1:]]
        count = int(np.prod(shape))
        content = np.frombuffer(
            bytes(held[datasets[inputs][0]]), number, count
        )
        result = (
            facts['session']
            .run(None, {first.name: content.reshape(shape)})[0]
            .tobytes()
        )
        held[datasets[outputs][0]][: len(result)] = result
        return told('execute')

    def create_dataset():
        number = next(numbers)
        datasets[number] = []
        return number

    def add(dataset, buffer):
        datasets[dataset].append(buffer)
        return dataset, 0

    return types.SimpleNamespace(
        calls=calls,
        held=held,
        init=lambda: told('init'),
        finalize=lambda: told('finalize'),
        create_data_buffer=lambda memory, size: memory,
        get_recent_err_msg=lambda: 'E10000: the reason',
        rt=types.SimpleNamespace(
            set_device=lambda n: told(f'set_device {n}', 0 if n < 8 else 1),
            reset_device=lambda n: told('reset_device'),
            malloc=allocate,
            malloc_host=allocate,
            free_host=free,
            memcpy=copy,
        ),
        util=types.SimpleNamespace(
            bytes_to_ptr=bytes_to_ptr,
            ptr_to_bytes=lambda address, size: bytes(held[address][:size]),
        ),
        mdl=types.SimpleNamespace(
            load_from_file=load,
            unload=lambda model: told('unload'),
            create_desc=lambda: next(numbers),
            get_desc=get_desc,
            get_num_inputs=lambda d: (
                1 if described[d]['form'] == 'static' else 2
            ),
            get_num_outputs=lambda d: 1,
            get_input_dims=lambda d, i: dims(d, 'in'),
            get_output_dims=lambda d, i: dims(d, 'out'),
            get_input_data_type=lambda d, i: kind(d, 'in'),
            get_output_data_type=lambda d, i: kind(d, 'out'),
            get_input_size_by_index=lambda d, i: size(d, i, 'in'),
            get_output_size_by_index=lambda d, i: size(d, i, 'out'),
            get_dynamic_batch=dynamic_batch,
            get_input_dynamic_gear_count=lambda d, i: (len(gears(d)), 0),
            get_input_dynamic_dims=lambda d, i, n: (
                [dict(dims=shape_of(d, 'in', b)) for b in gears(d)],
                0,
            ),
            get_input_index_by_name=index_of,
            set_dynamic_batch_size=lambda m, s, i, b: choose(m, b, 'batch'),
            set_input_dynamic_dims=lambda m, s, i, gear: choose(
                m, gear['dims'][0], 'dims'
            ),
            create_dataset=create_dataset,
            add_dataset_buffer=add,
            execute=execute,
        ),
    )
