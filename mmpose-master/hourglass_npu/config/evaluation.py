"""Can the evaluation of a config work? Asked before a day of training."""

import ast
import inspect
import textwrap

from hourglass_npu.config.joints import joints_of
from hourglass_npu.config.rules import nearest, parameters
from hourglass_npu.mpii.pckh import MEASURES, score_names

RULES = ('greater', 'less')


def evaluation_faults(cfg):
    """Say what would fail, or be ignored, when the first epoch is evaluated.

    Args:
        cfg (mmcv.Config): From :func:`hourglass_npu.config.load.load_config`.

    Returns:
        list[str]: One sentence for each fault.
    """
    from mmpose.core import EvalHook
    from mmpose.datasets.registry import DATASETS

    settings = cfg.get('evaluation') or {}
    val = cfg.data.get('val') or {}
    dataset = DATASETS.get(val['type']) if 'type' in val else None
    found = []
    hook = [name for name in parameters(EvalHook) if name != 'dataloader']
    scoring = getattr(dataset, 'evaluate', None)
    names = ['metric']
    if scoring is not None:
        names = [
            name
            for name in parameters(scoring)
            if name not in ('self', 'outputs', 'results', 'res_folder')
        ]
    # What a data set takes beyond that it does not tell.
    rest = scoring is None or any(
        p.kind == p.VAR_KEYWORD
        for p in inspect.signature(scoring).parameters.values()
    )
    for key in settings:
        if key in hook or key in names:
            continue
        hint = nearest(key, [*hook, *names], 'evaluation')
        if hint or not rest:
            found.append(f'evaluation.{key} is not known{hint}')
    metrics = settings.get('metric', [])
    metrics = [metrics] if isinstance(metrics, str) else metrics
    known = known_metrics(dataset)
    if known and isinstance(metrics, (list, tuple)):
        found += [
            f'evaluation.metric is {metric!r}: {val["type"]} knows '
            f'{", ".join(known)}{nearest(metric, known)}'
            for metric in metrics
            if metric not in known
        ]
    return found + _best_faults(settings, cfg, EvalHook)


def _best_faults(settings, cfg, hook):
    """Say why the best checkpoint could not be found."""
    best, rule = settings.get('save_best', True), settings.get('rule')
    key = settings.get('key_indicator', 'AP')
    found = []
    if not isinstance(best, bool):
        hint = ''
        if isinstance(best, str):
            hint = f' (evaluation.key_indicator={best!r} says by which score)'
        found.append(
            f'evaluation.save_best is {best!r}: must be true or false{hint}'
        )
    if rule is not None and rule not in RULES:
        found.append(
            f'evaluation.rule is {rule!r}: must be {" or ".join(RULES)}'
            f'{nearest(rule, RULES)}'
        )
    if not best:
        return found
    if not isinstance(key, str) or not key:
        return [
            *found,
            f'evaluation.key_indicator is {key!r}: must be the name of a '
            'score; or set save_best=False',
        ]
    kind = (cfg.data.get('val') or {}).get('type')
    if kind == 'TopDownMpiiDataset':
        joints = joints_of(cfg)
        scores = dict.fromkeys(
            name for m in MEASURES for name in score_names(joints, m)
        )
        if key not in scores:
            found.append(
                f'evaluation.key_indicator is {key!r}: {kind} gives '
                f'{", ".join(scores)}{nearest(key, scores)}'
            )
    words = [*hook.greater_keys, *hook.less_keys]
    if rule is None and not any(word in key.lower() for word in words):
        found.append(
            f'evaluation.key_indicator is {key!r}: say with evaluation.rule '
            'whether greater or less is better'
        )
    return found


def known_metrics(dataset):
    """Return the metrics that a class of data sets can compute.

    Args:
        dataset (type | None): With ``METRICS``, or with a list of
            ``allowed_metrics`` in ``evaluate``, as mmpose's have.

    Returns:
        list[str]: Empty where the class does not tell.
    """
    told = getattr(dataset, 'METRICS', None)
    if told:
        return list(told)
    try:
        text = textwrap.dedent(inspect.getsource(dataset.evaluate))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Assign) and any(
                getattr(target, 'id', None) == 'allowed_metrics'
                for target in node.targets
            ):
                return list(ast.literal_eval(node.value))
    except (AttributeError, OSError, SyntaxError, TypeError, ValueError):
        pass
    return []
