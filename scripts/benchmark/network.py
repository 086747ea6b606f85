"""Cases of the network and of what surrounds it, without data workers."""

import inspect
import os
import tempfile

import numpy as np
import torch

from benchmark import bundle
from benchmark.case import repeat, rounds
from benchmark.counting import HostReads, count_operators


def _heatmap_model(shape, test_cfg=None):
    """Build a detector whose network returns heatmaps that it holds."""
    from mmpose.models import build_posenet
    from mmpose.models.builder import BACKBONES

    class BenchHeatmaps(torch.nn.Module):
        def __init__(self, shape):
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            maps = torch.rand(shape, generator=generator)
            self.maps = torch.nn.Parameter(maps)

        def init_weights(self, pretrained=None):
            pass

        def forward(self, img):
            if len(img) == len(self.maps):
                return [self.maps * 1]
            return [self.maps[:1].expand(len(img), -1, -1, -1) * 1]

    BACKBONES.register_module(module=BenchHeatmaps, force=True)
    return build_posenet(
        dict(
            type='TopDown',
            backbone=dict(type='BenchHeatmaps', shape=shape),
            keypoint_head=None,
            train_cfg=dict(),
            test_cfg=test_cfg or dict(),
            loss_pose=dict(type='JointsMSELoss', use_target_weight=True),
        )
    )


def _heatmap_shape(cfg, batch):
    width, height = cfg.data_cfg.heatmap_size
    return batch, cfg.data_cfg.num_output_channels, height, width


def outside_network(cfg, batch, steps):
    """Run train_step and backward of all that is not the network.

    That is the loss, the accuracy of the log and the log's values, read
    after the last of ``steps`` steps as a log that is due.
    """
    shape = _heatmap_shape(cfg, batch)
    model = _heatmap_model(shape)
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
        for value in outputs['log_vars'].values():
            float(value)

    with HostReads() as reads:
        outputs = step()
    facts = dict(
        operators=count_operators(step),
        host_reads=len(reads.names),
        host_bytes=reads.bytes,
        result=float(outputs['loss'].detach()),
    )
    yield from rounds(work, steps, facts)


def optimizer(cfg):
    """Let the config's optimizer step over the weights of its network."""
    from mmpose.core import build_optimizers
    from mmpose.models import build_posenet

    model = build_posenet(cfg.model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    step = build_optimizers(model, cfg.optimizer).step
    step()
    yield from rounds(step, 1)


def evaluation(cfg, people, network, samples_per_gpu=1, fold=False, amp=False):
    """Test people with flip, from their pictures to joints in the picture.

    Without ``network`` ready heatmaps take the place of its output. ``fold``
    and ``amp`` do as the options of ``test.py``.
    """
    from mmcv.parallel import MMDataParallel
    from mmpose.apis import single_gpu_test
    from mmpose.datasets import build_dataloader, build_dataset
    from mmpose.models import build_posenet

    dataset = build_dataset(cfg.data.test, dict(test_mode=True))
    torch.manual_seed(0)
    if network:
        model = build_posenet(cfg.model)
    else:
        model = _heatmap_model(_heatmap_shape(cfg, 1), cfg.model.test_cfg)
    _quicken(model.eval(), fold, amp)
    model = MMDataParallel(model, device_ids=None)
    people_of = build_dataloader(
        repeat(dataset, people),
        samples_per_gpu=samples_per_gpu,
        workers_per_gpu=0,
        dist=False,
        shuffle=False,
        drop_last=False,
        pin_memory=False,
    )

    def work():
        results = single_gpu_test(model, people_of)
        joints = np.concatenate([one[0] for one in results])
        # Rounded: batches change the last bits of a convolution.
        return dict(result=joints[:2, :, :2].round(2).tolist())

    yield from rounds(work, people)


def _quicken(model, fold, amp):
    """Fold batch norm and cast to low precision, as tools/test.py does."""
    if fold:
        from mmcv.cnn import fuse_conv_bn

        fuse_conv_bn(model)
    if amp:
        bundle.cast_for_inference(model)


def inference(cfg, engine):
    """Run the network on one crop.

    Args:
        cfg (mmcv.Config): The config.
        engine (str): ``torch``, with ``bf16`` or ``folded`` or both, or
            ``onnxruntime``.
    """
    from mmpose.models import build_posenet

    torch.manual_seed(0)
    model = build_posenet(cfg.model).eval()
    width, height = cfg.data_cfg.image_size
    img = torch.rand(1, 3, height, width)
    network = _Network(model)
    if engine == 'onnxruntime':
        run = _exported(network, img)
    else:
        _quicken(model, 'folded' in engine, 'bf16' in engine)

        def run():
            with torch.no_grad():
                network(img)

    run()
    yield from rounds(run, 1)


class _Network(torch.nn.Module):
    """The heatmaps of a detector's last stage."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, img):
        return self.model.keypoint_head(self.model.backbone(img))[-1]


def _exported(network, img):
    """Export a network as ONNX, opset 11.

    Returns:
        callable: Runs it on ``img`` in ONNX Runtime.
    """
    import onnxruntime

    # Today's default is an exporter that cannot write opset 11.
    known = inspect.signature(torch.onnx.export).parameters
    legacy = dict(dynamo=False) if 'dynamo' in known else {}
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'network.onnx')
        torch.onnx.export(
            network.eval(),
            img,
            path,
            opset_version=11,
            input_names=['img'],
            output_names=['heatmap'],
            **legacy,
        )
        session = onnxruntime.InferenceSession(
            path, settings, providers=['CPUExecutionProvider']
        )

    def run():
        session.run(None, dict(img=img.numpy()))

    return run
