"""What the doctor looks at: one generator of findings for each subject."""

import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from doctor_data import Finding, check_data, check_room, ok

import npu_host
import patch_engine
import patches
from hourglass_npu import __version__
from hourglass_npu.bootstrap import PASSED_OVER

ROOT = Path(__file__).resolve().parent.parent
PROBE = Path(__file__).resolve().with_name('doctor_probe.py')
PROBE_LIMIT = 180  # seconds; the first use of an NPU can take a minute
PEER_LIMIT = 10  # seconds for the other processes when one has failed

PYTHONS = ('3.7', '3.9', '3.10', '3.11', '3.12', '3.13')
PACKAGES = ('torch', 'numpy', 'cv2', 'scipy', 'xtcocotools')

# What steers a training beside its options; none of it is a secret.
VARIABLES = (
    'ASCEND_GLOBAL_LOG_LEVEL',
    'ASCEND_LAUNCH_BLOCKING',
    'ASCEND_RT_VISIBLE_DEVICES',
    'CPU_AFFINITY_CONF',
    'CUDA_VISIBLE_DEVICES',
    'HCCL_CONNECT_TIMEOUT',
    'HCCL_EXEC_TIMEOUT',
    'HCCL_WHITELIST_DISABLE',
    'NPUID',
    'NPU_INTERNAL_FORMAT',
    'NPU_JIT_COMPILE',
    'OMP_NUM_THREADS',
    'TASK_QUEUE_ENABLE',
    'TORCH_DEVICE_BACKEND_AUTOLOAD',
    'TORCH_NPU_FALLBACK_CPU_DISABLE',
)

# What CANN says, and what it means.
KNOWN_FAILURES = {
    'EJ0001': 'a process that has just ended still holds the device: wait '
    'half a minute',
    'EI0006': 'the processes did not find each other in time: raise '
    'HCCL_CONNECT_TIMEOUT, and look at the network between the devices',
    # Whose other messages of that file name one operator.
    'binary_info_config.json': 'the package of CANN with the kernels of this '
    'chip is not installed, or is of another release or chip: install '
    'Ascend-cann-kernels-... (from CANN 9: Ascend-cann-...-ops) beside the '
    'toolkit, of the same version',
    'libhccl.so': 'CANN is not in the environment: source env.sh, or the '
    'set_env.sh of CANN (to go without NPUs: export '
    'TORCH_DEVICE_BACKEND_AUTOLOAD=0)',
}


class Host:
    """What several checks ask for.

    Args:
        devices (int): How many to try together; 0 tries one alone.

    Attributes:
        devices (int): As given.
        variables (dict): The environment that ``env.sh`` makes.
        python (str): Such as '3.11'.
        torch, torch_npu (str | None): Versions, read without an import.
        cann (Path | None), cann_version (str | None): Where and which.
        driver (str | None): Version of the NPU driver.
        nodes (list[Path]): The devices that the driver offers.
    """

    def __init__(self, devices=0):
        self.devices = devices
        self.variables = npu_host.environment()
        self.python = '{}.{}'.format(*sys.version_info)
        self.torch = npu_host.installed('torch')
        self.torch_npu = npu_host.installed('torch_npu')
        self.cann, self.cann_version = npu_host.find_cann(self.variables)
        self.driver = npu_host.driver_version()
        root = Path(os.environ.get('CANN_SYSROOT') or '/')
        self.nodes = sorted(root.glob('dev/davinci[0-9]*'))

    @property
    def wants_npu(self):
        """bool: Something here is for NPUs."""
        return bool(self.torch_npu or self.cann or self.driver or self.nodes)


# Software -----------------------------------------------------------------


def check_bundle(host):
    """Which state of the bundle this is."""
    # git refuses the checkout of another user, unless it is told not to.
    trusted = ['-c', f'safe.directory={ROOT}', '-c', 'core.fsmonitor=false']
    git = ['git', *trusted, '-C', str(ROOT)]
    state = _output(*git, 'describe', '--always', '--dirty')
    yield ok('bundle', f'{__version__}, {state or "no git checkout"}')


def check_system(host):
    """What the rest runs on."""
    libc = ' '.join(platform.libc_ver()) or 'unknown libc'
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    yield ok(
        'system',
        f'{platform.system()} {platform.release()} {platform.machine()}, '
        f'{libc}, {cores} cores, {memory:.0f} GiB',
    )


def check_python(host):
    """Whether this Python is one that the bundle serves."""
    text = f'{platform.python_version()}, {sys.executable}'
    if host.python in PYTHONS:
        yield ok('python', text)
    else:
        yield Finding(
            'python',
            'error',
            f'{text}: the bundle runs on Python {", ".join(PYTHONS)}',
            'PYTHON=python3.11 bash scripts/setup.sh',
        )
    missing = [n for n in PACKAGES if not patch_engine.locate(n)]
    if missing:
        yield Finding(
            'packages',
            'error',
            f'this Python has no {", ".join(missing)}',
            'bash scripts/setup.sh',
        )


def check_npu_software(host):
    """Torch_npu, CANN, the driver, and whether they belong together."""
    if not host.wants_npu:
        yield ok('npu', 'no torch_npu, CANN or driver here')
        return
    if host.torch_npu:
        yield from _check_matrix(host)
    else:
        yield Finding(
            'torch_npu',
            'error',
            'not installed, so that the NPUs are not used',
            _remedy_for_torch_npu(host),
        )
    if host.cann:
        version = host.cann_version or 'unknown version'
        yield ok('cann', f'{version}, {host.cann}')
    else:
        yield Finding(
            'cann',
            'error',
            'not found, though there is something for NPUs here',
            'install the CANN toolkit; if it lies elsewhere, source its '
            'set_env.sh first',
        )
    if host.driver:
        yield ok(
            'driver',
            f'{host.driver} (which drivers a CANN takes depends on the card: '
            "see Ascend's page of firmware and drivers)",
        )
    else:
        yield Finding(
            'driver',
            'error',
            'no driver/version.info: the NPU driver is not installed, or not '
            'mounted into this container',
            'install the driver; in a container mount '
            '/usr/local/Ascend/driver from the host',
        )


def _check_matrix(host):
    faults = []
    if host.torch:
        faults = npu_host.judge(
            host.torch, host.torch_npu, host.cann_version, host.python
        )
    for text, remedy in faults:
        versions = (host.torch, host.torch_npu)
        broken = 'unknown' not in versions and not (
            npu_host.belong_together(*versions)
        )
        severity = 'error' if broken else 'warning'
        yield Finding('torch_npu', severity, text, remedy)
    if not faults:
        yield ok('torch_npu', f'{host.torch_npu}, as the matrix has it')


def _remedy_for_torch_npu(host):
    """Return what installs a torch_npu for this torch and this CANN."""
    again = f'remove {Path(sys.prefix)} and run bash scripts/setup.sh'
    if not host.cann_version:
        return f'install CANN, then {again}'
    try:
        row = npu_host.choose(
            host.cann_version, host.python, platform.machine()
        )
    except npu_host.NothingFits as error:
        return str(error)
    return (
        f'{again}: for CANN {host.cann_version} it takes torch {row.torch} '
        f'and torch_npu {row.torch_npu}'
    )


def check_patched_packages(host):
    """Whether mmcv and mmpose are ours, and which Apex this is."""
    nothing = SimpleNamespace(mmcv=None, mmpose=None, apex=None)
    try:
        entries = patch_engine.load_manifest(patches.MANIFEST)
        found = patches.survey(nothing, entries, None)
    except (patch_engine.PatchError, OSError) as error:
        yield Finding('patches', 'error', str(error), 'bash scripts/setup.sh')
        return
    for place in PASSED_OVER:
        text = f'{place} is not ours and was passed over: see the note above'
        yield Finding('elsewhere', 'warning', text, 'unset PYTHONPATH')
    for package, targets in found.items():
        yield from _check_package(package, targets)


def _check_package(package, targets):
    name = package.name
    own = Path(sys.prefix, '.setup')
    again = f'rm -f {own}/mmcv; ' if own.is_dir() else ''
    optional = name == 'apex'
    severity = 'warning' if optional else 'error'
    if package.problem:
        text = package.problem if package.root else 'not installed'
        yield Finding(name, severity, text, f'{again}bash scripts/setup.sh')
        return
    if not targets:
        impostor = 'uninstall' in package.note
        text, _, remedy = package.note.partition('. ')
        if impostor:
            yield Finding(name, 'warning', text, remedy)
        else:
            yield ok(name, text)
        return
    states = Counter(target.state for target in targets)
    summary = ', '.join(f'{n} {state}' for state, n in states.items())
    text = f'{package.version or "unknown version"}: files {summary}'
    where = f'{text}, in {package.root}'
    problems = [t.problem() for t in targets if t.problem()]
    if problems:
        yield Finding(
            name,
            severity,
            f'{where}. {problems[0]}',
            f'{again}bash scripts/setup.sh'
            if not optional
            else 'docs/PATCHES.md says what to edit; only O1 needs it',
        )
    elif any(target.state not in patch_engine.IN_ORDER for target in targets):
        # Where set-up makes an environment, the commands go on there.
        apply = 'python3 scripts/patches.py apply'
        remedy = apply if own.is_dir() else 'bash scripts/setup.sh'
        yield Finding(name, severity, where, remedy)
    else:
        yield ok(name, text)


# Devices ------------------------------------------------------------------


def check_device_nodes(host):
    """Whether the driver's devices may be used."""
    if not host.wants_npu:
        return
    if not host.nodes:
        yield Finding(
            'nodes',
            'error',
            'there is no /dev/davinci0',
            'see npu-smi info; in a container pass the devices on: '
            '--device /dev/davinci0 --device /dev/davinci_manager --device '
            '/dev/devmm_svm --device /dev/hisi_hdc',
        )
        return
    locked = [
        node.name
        for node in host.nodes
        if not os.access(str(node), os.R_OK | os.W_OK)
    ]
    if locked:
        yield Finding(
            'nodes',
            'error',
            f'no permission to use {", ".join(locked)}',
            'become a member of the group that owns them (HwHiAiUser as a '
            'rule), and log in again',
        )
    else:
        yield ok('nodes', f'{len(host.nodes)} in /dev')


def check_devices(host):
    """Import torch, look for devices, try a collective: what training does."""
    if not host.torch:
        return
    facts, status, errors = probe(host.variables)
    if 'torch' in facts:
        version, build = facts['torch']['version'], facts['torch']['build']
        yield ok('torch', f'{version}, built for {build}')
    if 'devices' in facts:
        counts = facts['devices']
        there = [f'{kind} ({n})' for kind, n in counts.items() if n]
        if host.wants_npu and not counts['npu']:
            yield Finding(
                'devices',
                'error',
                facts['absent']['npu'],
                _meaning(facts['absent']['npu'])
                or 'see the other findings, and npu-smi info',
            )
        else:
            yield ok('devices', ', '.join(there))
    if 'collective' in facts:
        used = facts['collective']
        name = f' on {used["name"]}' if used['name'] else ''
        yield ok(
            'collective',
            f'{used["backend"]} works in a group of one{name}',
        )
    if status:
        step = (
            'importing torch'
            if 'torch' not in facts
            else 'looking for devices'
            if 'devices' not in facts
            else 'a collective in a group of one'
        )
        what = (
            f'did not end within {PROBE_LIMIT} s'
            if status == 'time'
            else f'failed: {_last_line(errors)}'
        )
        yield Finding(
            'devices',
            'error',
            f'{step} {what}',
            _meaning(errors) or f'{sys.executable} {PROBE} shows all of it',
        )


def check_cards(host):
    """Try several devices together: a process each, as they train."""
    if not host.torch or not host.devices:
        return
    with tempfile.TemporaryDirectory() as folder:
        common = dict(
            host.variables,
            WORLD_SIZE=str(host.devices),
            LOCAL_WORLD_SIZE=str(host.devices),
            DOCTOR_RENDEZVOUS=f'{folder}/rendezvous',
        )
        found = probe_all(
            dict(common, RANK=str(rank), LOCAL_RANK=str(rank))
            for rank in range(host.devices)
        )
    # One that was stopped because of another is no finding.
    failed = [
        (rank, facts, status, errors)
        for rank, (facts, status, errors) in enumerate(found)
        if status not in (0, 'stopped')
    ]
    # Where all say the same, as to a request that cannot be, once will do.
    if len({_last_line(errors) for *_, errors in failed}) == 1:
        failed = failed[:1]
    for rank, facts, status, errors in failed:
        step = 'the sum over all' if 'card' in facts else 'its own device'
        what = (
            f'did not end within {PROBE_LIMIT} s'
            if status == 'time'
            else f'failed: {_last_line(errors)}'
        )
        yield Finding(
            'cards',
            'error',
            f'process {rank} of {host.devices}: {step} {what}',
            _meaning(errors) or 'see npu-smi info, and dmesg of this host',
        )
    if not failed:
        used = found[0][0]['collective']
        names = {facts['card']['name'] for facts, *_ in found} - {''}
        speed = used.get('gb_per_s')
        yield ok(
            'cards',
            f'{host.devices} x {used["kind"]}'
            + ''.join(f' ({name})' for name in sorted(names))
            + f': {used["backend"]} sums 1 to {host.devices}'
            + (f' at {speed:.3g} GB/s' if speed else ''),
        )


def probe(variables):
    """Run doctor_probe.py as a training would be run.

    Args:
        variables (dict): Its environment.

    Returns:
        tuple[dict, int | str, str]: What it has said; its exit status, or
        'time' if it was stopped; its error output without addresses.
    """
    return probe_all([variables])[0]


def probe_all(environments):
    """Run doctor_probe.py in several processes at once.

    Args:
        environments (Iterable[dict]): One for each.

    Returns:
        list[tuple]: What :func:`probe` returns, for each. The status of one
        that was stopped since another has failed is 'stopped'.
    """
    processes = [_Probe(variables) for variables in environments]
    end, reason = time.monotonic() + PROBE_LIMIT, 'time'
    try:
        while any(process.poll() is None for process in processes):
            if time.monotonic() > end:
                break
            if reason == 'time' and any(p.poll() for p in processes):
                end = min(end, time.monotonic() + PEER_LIMIT)
                reason = 'stopped'
            time.sleep(0.05)
    finally:  # on Ctrl-C, too, which does not reach their sessions
        for process in processes:
            process.stop(reason)
    return [process.result() for process in processes]


class _Probe(subprocess.Popen):
    """A process of doctor_probe.py, in a session of its own."""

    def __init__(self, variables):
        self._streams = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self._stopped = None
        super().__init__(
            [sys.executable, str(PROBE)],
            env=dict(variables, PYTHONDONTWRITEBYTECODE='1'),
            stdin=subprocess.DEVNULL,
            stdout=self._streams[0],
            stderr=self._streams[1],
            start_new_session=True,
        )

    def stop(self, reason):
        """End it, and what it has started, unless it has ended."""
        if self.poll() is None:
            self._stopped = reason
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()

    def result(self):
        """Return what it has said, its status and its error output."""
        texts = []
        for stream in self._streams:
            stream.seek(0)
            texts.append(stream.read().decode('utf-8', 'replace'))
            stream.close()
        facts = {}
        for line in texts[0].splitlines():
            # CANN and torch print there as well.
            if line.startswith('{"'):
                facts.update(json.loads(line))
        status = self._stopped or self.returncode
        return facts, status, _without_addresses(texts[1])


def _meaning(text):
    """Return what a known failure means, or an empty string."""
    return next((KNOWN_FAILURES[k] for k in KNOWN_FAILURES if k in text), '')


def _last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else 'it says nothing'


def _without_addresses(text):
    """Take this host's name, and addresses, out of somebody else's words."""
    name = socket.gethostname()
    text = re.sub(rf'(?<![\w.-]){re.escape(name)}(?![\w-])', 'HOST', text)
    text = re.sub(r'(?<![\w.])\d{1,3}(\.\d{1,3}){3}(?![\w.])', 'ADDRESS', text)
    return re.sub(r'\b(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{1,4}\b', 'ADDRESS', text)


def check_variables(host):
    """What is set, and whether it can be right."""
    values = {
        name: host.variables[name]
        for name in VARIABLES
        if host.variables.get(name)
    }
    yield ok(
        'environment',
        ' '.join(f'{k}={v}' for k, v in values.items()) or 'nothing is set',
    )
    visible = values.get('ASCEND_RT_VISIBLE_DEVICES', '0')
    numbers = visible.split(',')
    rising = all(n.isdigit() for n in numbers) and sorted(
        set(map(int, numbers))
    ) == list(map(int, numbers))
    if not rising:
        yield Finding(
            'environment',
            'error',
            f'ASCEND_RT_VISIBLE_DEVICES={visible} names no devices',
            'give rising numbers with commas between them, such as 0,1,4',
        )
    seconds = values.get('HCCL_CONNECT_TIMEOUT', '120')
    if not (seconds.isdigit() and 120 <= int(seconds) <= 7200):
        yield Finding(
            'environment',
            'warning',
            f'HCCL_CONNECT_TIMEOUT={seconds} is not from 120 to 7200 seconds',
            'unset HCCL_CONNECT_TIMEOUT; env.sh sets one',
        )
    if (
        values.get('ASCEND_LAUNCH_BLOCKING') == '1'
        and values.get('TASK_QUEUE_ENABLE', '0') != '0'
    ):
        yield Finding(
            'environment',
            'warning',
            'TASK_QUEUE_ENABLE has no effect while ASCEND_LAUNCH_BLOCKING=1, '
            'which makes training slow',
            'unset ASCEND_LAUNCH_BLOCKING, unless you look for a fault',
        )


CHECKS = (
    check_bundle,
    check_system,
    check_python,
    check_npu_software,
    check_device_nodes,
    check_devices,
    check_cards,
    check_patched_packages,
    check_variables,
    check_data,
    check_room,
)


# Report -------------------------------------------------------------------


def _output(*command):
    """Return what a command prints, or an empty string."""
    try:
        return (
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=30,
            )
            .stdout.decode('utf-8', 'replace')
            .strip()
        )
    except (OSError, subprocess.TimeoutExpired):
        return ''
