"""The data doctor: what a person should know about the rows before training on them, in time linear in their number."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from workbench.data.findings import Rows, counted, finding, folded, gather, text, turns, verb
from workbench.data.image_doctor import examine_images
from workbench.data.table import Table

FEW = 5
"""Rows of a label in one split below which nothing can be said about it."""
UNEVEN, VERY_UNEVEN = 3.0, 10.0
"""Largest over smallest label from which the balance is noted, and warned of."""
OUTLIER, LONG = 10, 500
"""A long text has at least so many times the median's characters, and at least so many."""
CONTRADICTING = 0.02
"""Share of rows with contradicting labels from which no method can be judged well."""
TRUTH = ("label", "completion", "answer")
"""Parts that are to be learnt; the others are what is asked."""
ORDER = {"problem": 0, "warning": 1, "note": 2}
SUSPECT = re.compile(r"[\u00c2\u00c3\u00ce-\u00d1\u00e2\u00e3\u00ef\u00f0][^\x00-\x7f]+|[\u00c4-\u00f4][^\x00-\x7f]{5,}")
"""First bytes of UTF-8 seen as letters: those that hardly end a word, or any at the head of a long run (`café…”` is none)."""
Finding = dict[str, Any]
Texts = Mapping[str, Sequence[str]]


def examine(tables: Mapping[str, Table], notes: Sequence[str] = ()) -> list[Finding]:
    """Everything worth knowing about some rows.

    Args:
        tables: split name -> its rows; columns are named by the task's parts. Raw rows may stand under one name.
        notes: what loading already said, e.g. rows left out because another split holds them too.

    Returns:
        [{severity: problem|warning|note, what, count, share, sentence, examples: [{id, split, text}]}], problems first; `share`
        is of the rows looked at. Empty when there is nothing to say.
    """
    rows = gather(tables)
    if not len(rows):
        return []
    texts = rows.texts()
    found = [*_empty(rows, texts), *_repeated(rows, texts), *_labels(rows), *_readable(rows, texts), *_chats(rows, texts)]
    if "image" in rows.parts:
        found += examine_images(rows)
    found += [_removed(rows, note) for note in notes]
    if len(rows) < rows.total:
        found.append(
            finding("note", "sampled", rows, [], f"an even sample of {len(rows):,} of {rows.total:,} rows was looked at.")
        )
    return sorted(found, key=lambda one: ORDER[one["severity"]])


def _removed(rows: Rows, note: str) -> Finding:
    """What loading took out, as it said so itself."""
    number = re.match(r"[\d,]*", note).group().replace(",", "")  # type: ignore[union-attr]
    count = int(number) if number else 0
    return {**finding("note", "removed", rows, [], note), "count": count, "share": round(count / (count + len(rows)), 6)}


def _visible(cell: str) -> int:
    """Characters that can be seen; counted exactly for short texts only."""
    return len(cell) if len(cell) > 50 else sum(unicodedata.category(c)[0] not in "ZC" for c in cell)


def _empty(rows: Rows, texts: Texts) -> Iterator[Finding]:
    labels = {"label": [text(cell) for cell in rows.parts["label"]]} if "label" in rows.parts else {}
    for part, cells in {**texts, **labels}.items():
        seen = [_visible(cell) for cell in cells]
        empty = [i for i, n in enumerate(seen) if n == 0]
        if empty and part != "text_pair":  # a pair may be missing
            has = verb(empty, "has", "have")
            yield finding(
                "problem", "empty", rows, empty, f"{counted(empty, rows)} {has} an empty {part}: fill or remove them.", cells
            )
        short = [i for i, n in enumerate(seen) if n == 1]
        if short and part not in TRUTH:
            says = f"{counted(short, rows)} {verb(short, 'has', 'have')} a {part} of one character: too little to learn from."
            yield finding("warning", "one_character", rows, short, says, cells)


def _repeated(rows: Rows, texts: Texts) -> Iterator[Finding]:
    """Duplicates in a split, contradictions, and rows that training has seen before they are judged."""
    if not texts:
        return
    labels = [text(cell) for cell in rows.parts.get("label", [None] * len(rows))]
    shown = next(iter(texts.values()))
    exact = [hash(cells) for cells in zip(labels, *texts.values())]
    asked = [hash(tuple(map(folded, cells))) for cells in zip(*(c for p, c in texts.items() if p not in TRUTH))] or exact
    whole = [hash(tuple(map(folded, cells))) for cells in zip(*texts.values())]
    same, near = _surplus(rows, exact, [hash(pair) for pair in zip(whole, labels)])
    if same:
        says = f"{counted(same, rows)} {verb(same, 'repeats', 'repeat')} an earlier row of the same split word for word."
        yield finding("warning", "duplicates", rows, same, says + " They count more than once; keep one of each.", shown)
    if near:
        says = (
            f"{counted(near, rows)} {verb(near, 'repeats', 'repeat')} an earlier row but for case, blanks or outer punctuation."
        )
        yield finding("warning", "near_duplicates", rows, near, says, shown)
    yield from _contradictions(rows, whole, labels, shown)
    yield from _leaks(rows, exact, whole, asked, shown)


def _surplus(rows: Rows, exact: Sequence[int], near: Sequence[int]) -> tuple[list[int], list[int]]:
    """Rows whose content stood earlier in their split: word for word, and folded only."""
    seen: dict[str, tuple[set[int], set[int]]] = defaultdict(lambda: (set(), set()))
    same: list[int] = []
    alike: list[int] = []
    for index, split in enumerate(rows.splits):
        words, forms = seen[split]
        if exact[index] in words:
            same.append(index)
        elif near[index] in forms:
            alike.append(index)
        words.add(exact[index])
        forms.add(near[index])
    return same, alike


def _contradictions(rows: Rows, whole: Sequence[int], labels: Sequence[str], shown: Sequence[str]) -> Iterator[Finding]:
    first: dict[int, str] = {}
    torn = {key for key, label in zip(whole, labels) if first.setdefault(key, label) != label}
    found = [i for i, key in enumerate(whole) if key in torn]
    if found:
        severity = "problem" if len(found) > CONTRADICTING * len(rows) else "warning"
        many = f"{len(torn):,} text{verb(torn, '', 's')} in all"
        says = f"{counted(found, rows)} hold a text that also stands with another label ({many}): decide for one."
        yield finding(severity, "contradictions", rows, found, says, [f"{lab}: {cell}" for lab, cell in zip(labels, shown)])


def _leaks(
    rows: Rows, exact: Sequence[int], whole: Sequence[int], asked: Sequence[int], shown: Sequence[str]
) -> Iterator[Finding]:
    """Rows of validation and test that training holds too; and, where the answer is a text, questions that it holds."""
    learnt = [i for i, split in enumerate(rows.splits) if split == "train"]
    judged = [i for i, split in enumerate(rows.splits) if split in ("validation", "test")]
    words, forms, questions = ({keys[i] for i in learnt} for keys in (exact, whole, asked))
    leaked = [i for i in judged if whole[i] in forms]
    if leaked:
        literal = sum(exact[i] in words for i in leaked)
        says = (
            f"{len(leaked):,} of {len(judged):,} validation and test rows also stand in the training data ({literal:,} word for "
            "word): their figures would flatter every method; remove them from one side."
        )
        yield finding("problem", "leakage", rows, leaked, says, shown)
    known = [i for i in judged if asked[i] in questions and whole[i] not in forms]
    if known:
        says = f"{len(known):,} of {len(judged):,} validation and test rows ask what training asks too, with another answer."
        yield finding("warning", "known_questions", rows, known, says, shown)


def _labels(rows: Rows) -> Iterator[Finding]:
    if "label" not in rows.parts:
        return
    names = [text(cell) for cell in rows.parts["label"]]
    sizes = Counter(names).most_common()
    if len(sizes) > 1 and (ratio := sizes[0][1] / sizes[-1][1]) >= UNEVEN:
        (most, many), (least, few) = sizes[0], sizes[-1]
        high, low = f"{100 * many / len(rows):.1f} %", f"{100 * few / len(rows):.1f} %"
        says = f"{most[:40]!r} has {high} of the rows and {least[:40]!r} {low}: saying the first always is right {high} of the "
        says += "time, so look at macro F1 too."
        found = [i for i, name in enumerate(names) if name == most]
        yield finding("warning" if ratio >= VERY_UNEVEN else "note", "label_balance", rows, found, says)
    spelt: dict[str, set[str]] = defaultdict(set)
    for name, _ in sizes:
        spelt[" ".join(name.casefold().split())].add(name)
    twins = {name for group in spelt.values() if len(group) > 1 for name in group}
    if twins:
        found = [i for i, name in enumerate(names) if name in twins]
        says = f"{len(twins)} labels differ only in case or blanks and count as different classes: spell them alike."
        yield finding("problem", "label_spelling", rows, found, says, names)
    yield from _rare(rows, names)


def _rare(rows: Rows, names: Sequence[str]) -> Iterator[Finding]:
    """Labels that hardly occur in a split."""
    splits, counts = list(dict.fromkeys(rows.splits)), Counter(zip(names, rows.splits))
    rare = {(name, split) for name in set(names) for split in splits if counts[name, split] < FEW}
    if rare and len(rows) == rows.total:
        labels = {name for name, _ in rare}
        firsts = {name: i for i, name in reversed(list(enumerate(names))) if name in labels}
        shown = {i: f"{name}: " + ", ".join(f"{counts[name, s]:,} in {s}" for s in splits) for name, i in firsts.items()}
        found = [i for i, name in enumerate(names) if name in labels]
        says = f"{len(labels)} of {len(set(names))} labels have fewer than {FEW} rows in {_listed(splits, rare)}: little can be "
        one = finding("warning", "rare_labels", rows, found, says + "learnt or measured there.")
        yield {**one, "examples": [rows.example(i, shown[i]) for i in sorted(shown)[:3]]}


def _listed(splits: Sequence[str], rare: set[tuple[str, str]]) -> str:
    return " and ".join(split for split in splits if any(s == split for _, s in rare))


def _readable(rows: Rows, texts: Texts) -> Iterator[Finding]:
    """Texts that stand out by their length, and those that came through another encoding."""
    for part, cells in texts.items():
        lengths = [len(cell) for cell in cells]
        middle = median(lengths)
        long = [i for i, n in enumerate(lengths) if n >= max(LONG, OUTLIER * middle)]
        if long:
            says = (
                f"{counted(long, rows)} {verb(long, 'has', 'have')} a {part} at least {OUTLIER} times as long as the middle one "
            )
            says += f"({middle:,.0f} characters; the longest has {max(lengths):,}): max_length cuts them."
            yield finding("note", "long", rows, long, says, cells)
        lost = [i for i, cell in enumerate(cells) if "\ufffd" in cell]
        if lost:
            says = (
                f"{counted(lost, rows)} {verb(lost, 'holds', 'hold')} the character U+FFFD in {part}: letters were lost when the "
            )
            yield finding("warning", "lost_characters", rows, lost, says + "file was converted; convert it again.", cells)
        garbled = [i for i, cell in enumerate(cells) if _is_garbled(cell)]
        if garbled:
            says = f"{counted(garbled, rows)} {verb(garbled, 'holds', 'hold')} UTF-8 read as another encoding in {part}, such as "
            says += f"{_garbled(cells[garbled[0]])!r}: read the original as UTF-8."
            yield finding("warning", "wrong_encoding", rows, garbled, says, cells)


def _garbled(cell: str) -> str | None:
    """The first run of characters that, as Windows-1252 or Latin-1 bytes, is UTF-8: nobody writes that on purpose."""
    for match in SUSPECT.finditer(cell):
        for encoding in ("cp1252", "latin-1"):
            try:
                match.group().encode(encoding).decode("utf-8")
                return match.group()
            except UnicodeError:
                continue
    return None


def _is_garbled(cell: str) -> bool:
    return not cell.isascii() and _garbled(cell) is not None


def _chats(rows: Rows, texts: Texts) -> Iterator[Finding]:
    """Answers that only repeat the question, and conversations in an order no model was trained on."""
    for asked, said in (("prompt", "completion"), ("question", "answer")):
        if asked in texts and said in texts:
            pairs = enumerate(zip(texts[asked], texts[said]))
            echo = [i for i, (a, b) in pairs if a and folded(a.rpartition("\n")[2] if asked == "question" else a) == folded(b)]
            if echo:
                says = (
                    f"{counted(echo, rows)} {verb(echo, 'has', 'have')} a {said} equal to the {asked}: nothing is learnt there."
                )
                yield finding("warning", "echoes", rows, echo, says, texts[said])
    if "messages" in rows.parts:
        chats = [[str(turn.get("role")) for turn in turns(cell)] for cell in rows.parts["messages"]]
        shown = [" > ".join(roles) for roles in chats]
        open_ended = [i for i, roles in enumerate(chats) if len(roles) < 2 or roles[-1] != "assistant"]
        if open_ended:
            says = f"{counted(open_ended, rows)} {verb(open_ended, 'does', 'do')} not end with an answer of the assistant after "
            yield finding("problem", "no_answer", rows, open_ended, says + "another turn: complete or remove them.", shown)
        turned = [i for i, roles in enumerate(chats) if roles and not _in_order(roles)]
        if turned:
            says = f"{counted(turned, rows)} {verb(turned, 'does', 'do')} not go user, assistant, user, ... (one system turn may "
            yield finding("warning", "role_order", rows, turned, says + "stand first): the template may misread them.", shown)


def _in_order(roles: Sequence[str]) -> bool:
    """Whether a chat is an optional system turn, then user and assistant in turn."""
    rest = roles[1:] if roles[0] == "system" else roles
    return all(role == ("user", "assistant")[i % 2] for i, role in enumerate(rest))
