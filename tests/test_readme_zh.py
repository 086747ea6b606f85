"""README.zh-CN.md has the headings, commands, paths and links of README.md.

Each Chinese heading names the English one in a comment. The text itself is
free, so that it can be written for Chinese readers.
"""

import re
from collections import Counter, OrderedDict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGLISH = (ROOT / 'README.md').read_text(encoding='utf-8')
CHINESE = (ROOT / 'README.zh-CN.md').read_text(encoding='utf-8')
FENCE = re.compile(r'^```(.*?)^```', re.M | re.S)


def split(text, name_of):
    """Split a text at its headings; return sections by level and name."""
    # Mask comments in commands, which look like headings.
    masked = FENCE.sub(lambda block: re.sub('#', ' ', block.group()), text)
    heads = list(re.finditer(r'^(#+) (.*)$', masked, re.M))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return OrderedDict(
        (
            f'{head.group(1)} {name_of(head.group(2))}',
            text[head.end() : end],
        )
        for head, end in zip(heads, ends)
    )


def original_of(heading):
    """Return the English heading from the comment of a Chinese one."""
    found = re.search('<!-- (.*) -->', heading)
    return found.group(1) if found else f'(no comment) {heading}'


ORIGINALS = split(ENGLISH, str)
TRANSLATIONS = split(CHINESE, original_of)


def test_headings_are_the_same():
    assert list(TRANSLATIONS) == list(ORIGINALS)


def without_links_to_each_other(text):
    text = re.sub(r'\[\S+\]\(README\S*\.md\)', '', text)
    # A page that is translated, too, is linked in the reader's language.
    return text.replace('.zh-CN.md)', '.md)')


def words(text):
    """Return all words in backquotes, each on one line."""
    return [' '.join(w.split()) for w in re.findall('`([^`]+)`', text)]


WHAT = {
    'commands': lambda text: FENCE.findall(text),
    'words in backquotes': lambda text: words(FENCE.sub('', text)),
    'links': lambda text: re.findall(r'\]\(([^)]+)\)', text),
    'rows of tables': lambda text: [
        line.count('|') for line in text.splitlines() if line[:1] == '|'
    ],
}


@pytest.mark.parametrize('part', ORIGINALS)
@pytest.mark.parametrize('what', WHAT)
def test_part(part, what):
    here, there = (
        Counter(WHAT[what](without_links_to_each_other(parts.get(part, ''))))
        for parts in (ORIGINALS, TRANSLATIONS)
    )
    missing, strange = list(here - there), list(there - here)
    assert not missing and not strange, (
        f'"{part}", {what}: README.zh-CN.md lacks {missing} and has '
        f'{strange} instead'
    )


def test_it_is_chinese():
    for name, text in TRANSLATIONS.items():
        if words(text) or len(text) > 200:
            assert re.search('[\u4e00-\u9fff]{4}', text), name
