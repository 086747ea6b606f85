"""public_address_statement.md names every address in the tree."""

import re
import subprocess
from pathlib import Path

import pytest

BUNDLE = Path(__file__).resolve().parents[1]
STATEMENT = BUNDLE / 'public_address_statement.md'
# With a scheme any host; without, what ends like a host of the public network
# and unlike a file or an attribute.
SCHEME = re.compile(r'\b(?:https?|ftp|ssh|git)://(?:[\w.-]+@)?([\w.-]+)')
BARE = re.compile(r'\b((?:[a-z0-9-]+\.)+(?:com|org|de|cn|edu|gov))\b', re.I)
# Versions look the same.
ADDRESS = re.compile(r'(?<![=\d.])(\d{1,3}(?:\.\d{1,3}){3})\b')
# Tests make up hosts of one label and of private networks.
PRIVATE = re.compile(
    r'^(localhost|0\.0\.0\.0|10\..*|[a-z0-9-]*|.*\.(test|invalid))$'
)


def addresses_in(text):
    found = set()
    for pattern in (SCHEME, BARE, ADDRESS):
        found.update(pattern.findall(text))
    return {address for address in found if not PRIVATE.match(address)}


@pytest.fixture(scope='module')
def addresses():
    """The addresses in each text file of the tree but the statement."""
    listing = subprocess.run(
        [
            'git',
            'ls-files',
            '-z',
            '--cached',
            '--others',
            '--exclude-standard',
        ],
        capture_output=True,
        cwd=str(BUNDLE),
    )
    if listing.returncode:
        pytest.skip('this is no git checkout')
    found = {}
    for name in listing.stdout.decode().split('\0'):
        path = BUNDLE / name
        if path.is_file() and path not in (STATEMENT, Path(__file__)):
            data = path.read_bytes()
            if b'\0' not in data:
                found[name] = addresses_in(data.decode('utf-8', 'replace'))
    return found


def test_every_address_is_stated(addresses):
    stated = addresses_in(STATEMENT.read_text())
    unknown = {
        name: sorted(found - stated)
        for name, found in addresses.items()
        if found - stated
    }
    assert not unknown, f'not in {STATEMENT.name}'


def test_every_stated_address_is_in_the_tree(addresses):
    _, _, named_only = STATEMENT.read_text().partition('## Only named')
    there = set().union(*addresses.values())
    assert addresses_in(named_only) - there == set()


@pytest.mark.parametrize(
    'text, expected',
    [
        ('see http://a.example.net/x', {'a.example.net'}),
        ('git@host.example.org', {'host.example.org'}),
        ('at 93.184.216.34:80', {'93.184.216.34'}),
        ('scipy.io, self.net, http://x/y, localhost, a==4.5.5.64', set()),
    ],
)
def test_addresses_are_recognised(text, expected):
    assert addresses_in(text) == expected
