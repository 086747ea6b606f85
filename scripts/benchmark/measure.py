"""Measures subjects in turns, and tells what was found from luck."""

from benchmark.worker import ask_all, make, play

QUOTIENTS = {
    'CPU / floor': ('cpu', 'floor', False),
    'stock / this': ('wall', 'stock', True),
    'CPU, stock / this': ('cpu', 'stock', True),
    'limit / this': ('wall', 'arithmetic limit', True),
    'CPU / fp32': ('cpu', 'ours, fp32', False),
    'dispatches / fp32': ('dispatches', 'ours, fp32', False),
    'kernels / fp32': ('kernels', 'ours, fp32', False),
    'dispatches / stock': ('dispatches', 'stock', False),
}
"""Quotients by name: which time or count, over that of which variant, and
whether that variant stands above the line. Stock is only compared in the same
quantity."""


class Subject:
    """One thing that is measured: a row of a table.

    Args:
        what (str): The quantity. Those with the same one are compared.
        variant (str): Whose: ``floor``, ``stock``, or one of ours.
        group (list[Worker]): One, or the ranks of a process group.
        *request: For :func:`.case.start`.

    Attributes:
        facts (dict): What the case says when it is prepared.
        found (list[dict]): What each round found.
    """

    def __init__(self, what, variant, group, *request):
        self.what, self.variant, self.group = what, variant, group
        self.key, self.request = f'{what}/{variant}', request
        self.facts, self.found = {}, []

    def make(self):
        """Prepare it."""
        self.facts = ask_all(self.group, make, self.key, *self.request)[0]

    def run(self, seed):
        """Measure one round and return what was found.

        The time is that of the first worker; CPU time and memory are those
        of all together.
        """
        found = ask_all(self.group, play, self.key, seed)
        sums = {
            name: sum(one[name] for one in found)
            for name in ('cpu', 'memory')
            if name in found[0]
        }
        return dict(found[0], **sums)


def measure(subjects, rounds, warm_up=True, tell=lambda text: None):
    """Measure subjects in turn, round after round.

    Whatever else the machine does meanwhile meets all of them alike; the
    order is turned round after each round, so that none is always first.

    Args:
        subjects (list[Subject]): Their ``found`` is filled, a dict a round.
        rounds (int): How many rounds count.
        warm_up (bool): Whether one round goes before that does not.
        tell (callable): Is told what is going on.
    """
    for subject in subjects:
        tell(f'{subject.key}: preparing')
        subject.make()
    for number in range(-1 if warm_up else 0, rounds):
        for subject in subjects[:: -1 if number % 2 else 1]:
            tell(f'{subject.key}: round {number + 1} of {rounds}')
            # Seeds are not negative.
            found = subject.run(number + 1)
            if number >= 0:
                subject.found.append(found)


def summarise(values):
    """Return median and quartiles of some numbers as a dict."""
    values = sorted(values)

    def at(share):
        place = share * (len(values) - 1)
        low, high = int(place), -int(-place // 1)
        return values[low] + (place - low) * (values[high] - values[low])

    return dict(median=at(0.5), low=at(0.25), high=at(0.75))


def _reference(subject, variant, subjects):
    """Return the subject of a variant that another is compared with."""
    for other in subjects:
        same = other.what == subject.what or variant != 'stock'
        if other.variant == variant and same and other is not subject:
            return other
    return None


def _quotients(subject, subjects):
    """Compare a subject with its references, round by round.

    Both numbers of a quotient are from the same round, so what slowed the
    machine down in it is in both.
    """
    quotients = {}
    for name, (clock, variant, above) in QUOTIENTS.items():
        other = _reference(subject, variant, subjects)
        if other is not None and clock in other.found[0]:
            pair = (other, subject) if above else (subject, other)
            quotients[name] = summarise(
                one[clock] / two[clock]
                for one, two in zip(*(which.found for which in pair))
            )
    return quotients


def _same(result, wanted):
    """Say whether a result is stock's; None if one of them is unknown."""
    if result is None or wanted is None:
        return None
    if result == wanted:
        return 'yes'
    if isinstance(result, float):
        # Another order of summation, or another loss?
        return f'to {abs(result / wanted - 1):.0e}'
    return 'NO'


def rows_of(subjects):
    """Turn what was measured into rows.

    Args:
        subjects (list[Subject]): Measured ones.

    Returns:
        list[dict]: Of each subject ``what``, ``variant``; ``wall`` and
        ``cpu``, summaries of seconds; ``quotients``, summaries by name, see
        :data:`QUOTIENTS`; ``account`` where the time was taken apart,
        summaries of seconds by part; ``facts`` and findings of the last
        round, with ``same``, see :func:`_same`, where stock was measured.
    """
    rows = []
    for subject in subjects:
        facts = dict(subject.facts, **subject.found[-1])
        stock = _reference(subject, 'stock', subjects)
        if stock is not None:
            wanted = dict(stock.facts, **stock.found[-1]).get('result')
            facts['same'] = _same(facts.get('result'), wanted)
        row = dict(
            what=subject.what,
            variant=subject.variant,
            quotients=_quotients(subject, subjects),
        )
        for clock in ('wall', 'cpu'):
            del facts[clock]
            row[clock] = summarise(one[clock] for one in subject.found)
        if 'account' in facts:
            row['account'] = {
                part: summarise(one['account'][part] for one in subject.found)
                for part in facts.pop('account')
            }
        rows.append(dict(row, facts=facts))
    return rows
