"""Several data entries: their ids, what they share and what must not leak from one to another."""

import pytest
from PIL import Image

from tests.data.test_sources import PARTS, one_sentence
from workbench.core import safe_yaml
from workbench.core.data_spec import DataSpec, entries
from workbench.core.errors import WorkbenchError
from workbench.core.run_spec import DataRef, ModelRef, RunSpec
from workbench.core.spec import TrainingSpec, canonical, load_spec, parse_spec
from workbench.data import check_unchanged, load_table, resolve
from workbench.data.table import ROWS_PER_ENTRY, entry_of

SPEC = {"name": "many", "model": "bundled/minilm", "task": "text_classification", "methods": ["lora"]}


def table(write, name, rows):
    return write(name, "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


def rows(word, count=40, labels="ab"):
    return [(f"{word} {i}", labels[i % len(labels)]) for i in range(count)]


@pytest.fixture
def two(write):
    """Two sources without a common row; the label b occurs in both."""
    return (
        DataSpec(source=table(write, "reviews.csv", rows("film")), id="reviews"),
        DataSpec(source=table(write, "news.csv", rows("day", 30, "cb")), id="news", test=0.3, seed=3),
    )


def spec(data):
    return parse_spec({**SPEC, "data": data})


# --- what a person writes -----------------------------------------------------------------------------------------


def test_one_entry_is_itself_and_several_have_their_ids():
    one = spec("bundled/docstrings").data
    assert isinstance(one, DataSpec)
    assert spec(["bundled/docstrings"]).data == spec([{"source": "bundled/docstrings"}]).data == one
    several = spec(["x/reviews.csv", {"source": "news.v2.csv", "id": "papers"}, "org/set:config", "a/é.csv"]).data
    assert [d.id for d in several] == ["reviews", "papers", "set-config", "data"]
    assert entries(one) == (one,)
    assert entries(several) == several


def test_the_canonical_form_reads_back():
    made = spec(["a.csv", {"source": "b.csv", "limit": 3}])
    again = parse_spec(safe_yaml.loads(safe_yaml.dumps(made.model_dump(mode="json"))))
    assert again == made
    assert canonical(again) == canonical(made)


BAD = {
    "empty": ([], "at least one source; the list is empty"),
    "twins": ([{"source": "a.csv"}, {"source": "b/a.csv"}], "'a' stands twice"),
    "given twins": ([{"source": "a.csv", "id": "x"}, {"source": "b.csv", "id": "x"}], "'x' stands twice"),
    "path as id": ([{"source": "a.csv", "id": "../x"}, "b.csv"], "spec.data.0.id: an id must be 1-60 letters"),
    "long id": ([{"source": "a.csv", "id": "x" * 61}, "b.csv"], "1-60 letters"),
    "number": (["a.csv", 5], "spec.data.1 must be"),
    "unknown key": (["a.csv", {"source": "b.csv", "tets": 0.1}], "spec.data.1.tets is not a known key; closest: test"),
    "bad fraction": (["a.csv", {"source": "b.csv", "test": 2}], "spec.data.1.test: a fraction must lie"),
    "nested": (["a.csv", ["b.csv"]], "spec.data.1 must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_entries_get_one_sentence(name):
    data, words = BAD[name]
    with pytest.raises(WorkbenchError) as caught:
        spec(data)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "<" not in str(caught.value)


def test_relative_paths_of_every_entry_are_taken_from_the_files_folder(tmp_path):
    for name in ("a.csv", "b.csv", "held.csv"):
        (tmp_path / name).write_text("text,label\na,b\n")
    entry = {"source": "b.csv", "test": "held.csv"}
    (tmp_path / "spec.yaml").write_text(safe_yaml.dumps({**SPEC, "data": ["a.csv", entry, "bundled/docstrings"]}))
    a, b, bundled = load_spec(tmp_path / "spec.yaml").data
    assert (a.source, b.source, b.test) == tuple(str(tmp_path / n) for n in ("a.csv", "b.csv", "held.csv"))
    assert (a.id, b.id) == ("a", "b")
    assert bundled.source == "bundled/docstrings"


def test_a_stored_run_reads_back_with_one_entry_and_with_several(two):
    for data in (resolve(two[0]), resolve(two)):
        run = RunSpec(run_id="r", experiment="e", label="l", method="lora", base_method="lora", model=ModelRef(source="m"),
                      task="t", data=data, training=TrainingSpec())  # fmt: skip
        again = RunSpec.model_validate(safe_yaml.loads(safe_yaml.dumps(run.model_dump(mode="json"))))
        assert again == run
        assert isinstance(again.data, DataRef) == isinstance(data, DataRef)


def test_every_file_is_hashed_and_checked(two, tmp_path):
    refs = resolve(two)
    assert [list(ref.files) for ref in refs] == [[str(tmp_path / "reviews.csv")], [str(tmp_path / "news.csv")]]
    check_unchanged(refs)
    with (tmp_path / "news.csv").open("a") as file:
        file.write("one more,c\n")
    one_sentence(lambda: check_unchanged(refs), "news.csv", "changed since")


# --- rows ---------------------------------------------------------------------------------------------------------


def test_rows_of_all_entries_with_unique_ids_and_the_union_of_labels(two):
    splits = load_table(resolve(two), PARTS)
    assert splits.labels == ("a", "b", "c")
    assert splits.entries == ("reviews", "news")
    for name in ("train", "validation", "test"):
        part = getattr(splits, name)
        alone = [getattr(load_table(one, PARTS), name) for one in two]
        assert part.ids == tuple(n * ROWS_PER_ENTRY + i for n, one in enumerate(alone) for i in one.ids)
        assert part.column("text") == [text for one in alone for text in one.column("text")]
        assert part.entries == tuple(entry_of(i) for i in part.ids) == tuple(n for n, one in enumerate(alone) for _ in one.ids)
        assert len(set(part.ids)) == len(part)
    chosen = splits.test.select([len(splits.test) - 1, 0])
    assert chosen.entries == (1, 0)
    assert load_table(two[0], PARTS).test.entries == ()
    assert load_table(two[:1], PARTS) == load_table(two[0], PARTS)


def test_one_entry_never_moves_the_rows_of_another(two, write):
    before = load_table(two, PARTS)
    longer = DataSpec(source=table(write, "longer.csv", rows("film", 90)), id="reviews")
    after = load_table((longer, two[1]), PARTS)
    kept = [(i, t) for i, t in zip(before.test.ids, before.test.column("text")) if entry_of(i) == 1]
    assert kept == [(i, t) for i, t in zip(after.test.ids, after.test.column("text")) if entry_of(i) == 1]


def test_numbers_as_labels_are_ordered_by_value(write):
    several = [
        DataSpec(source=table(write, f"{n}.csv", rows(n, 20, labels)), id=n) for n, labels in (("x", ["10", "2"]), ("y", "12"))
    ]
    assert load_table(several, PARTS).labels == ("1", "2", "10")


def test_no_row_of_one_entry_is_trained_on_where_another_holds_it_back(write):
    """The second source holds every row of the first, under other labels and in another spelling."""
    first = DataSpec(source=table(write, "one.csv", rows("film", 60)), id="one")
    shouted = [(t.upper() + " ", "dc"[i % 2]) for i, (t, _) in enumerate(rows("film", 60))]
    second = DataSpec(source=table(write, "two.csv", shouted), id="two", seed=9)
    splits = load_table((first, second), PARTS)
    content = {n: [(" ".join(t.lower().split()), entry_of(i)) for i, t in zip(p.ids, p.column("text"))]
               for n, p in (("train", splits.train), ("validation", splits.validation), ("test", splits.test))}  # fmt: skip
    for part, held in (("train", ("test", "validation")), ("validation", ("test",))):
        assert not {t for t, _ in content[part]} & {t for h in held for t, _ in content[h]}
    alone = [load_table(one, PARTS) for one in (first, second)]
    assert len(splits.test) == sum(len(one.test) for one in alone)
    lost = sum(len(one.train) for one in alone) - len(splits.train)
    assert lost > 0
    counts = [int(note.split()[0]) for note in splits.notes if "training rows of" in note]
    assert sum(counts) == lost
    assert all("another entry" in note for note in splits.notes)
    gone = sum(len(one.validation) for one in alone) - len(splits.validation)
    assert sum(int(note.split()[0]) for note in splits.notes if "validation rows of" in note) == gone


def test_the_limit_counts_rows_that_are_left(write):
    first = DataSpec(source=table(write, "one.csv", rows("film", 60)), id="one")
    second = DataSpec(source=first.source, id="two", seed=9, limit=12)
    splits = load_table((first, second), PARTS)
    assert splits.train.entries.count(1) == 12
    free = load_table((first, second.model_copy(update={"limit": None})), PARTS)
    assert set(splits.train.ids) <= set(free.train.ids)
    assert (splits.test, splits.validation) == (free.test, free.validation)


def test_an_entry_that_another_holds_back_whole_is_refused(write):
    first = DataSpec(source=table(write, "one.csv", rows("film", 20)), id="one")
    second = DataSpec(source=table(write, "two.csv", rows("day", 20)), id="two", test=first.source)
    one_sentence(lambda: load_table((first, second), PARTS), "rows of one must differ from the test and validation data")


def test_equal_pictures_of_two_entries_are_found(tmp_path):
    for name in ("one", "two"):
        for number in range(24):
            folder = tmp_path / name / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (number * 9, 0 if number < 8 else 90 * len(name) * (name == "two"), 7)).save(
                folder / f"{name}{number}.png"
            )
    several = [DataSpec(source=str(tmp_path / n), id=n, seed=s) for n, s in (("one", 0), ("two", 5))]
    splits = load_table(resolve(several), {"image": True, "label": True})

    def pixels(part):
        return {Image.open(path).tobytes() for path in part.column("image")}

    assert not pixels(splits.train) & (pixels(splits.test) | pixels(splits.validation))
    assert any("of another entry" in note for note in splits.notes)


def test_entries_must_give_the_same_columns(write, two):
    pairs = write("pairs.csv", "text,text_pair,label\n" + "".join(f"t{i},p{i},{'ab'[i % 2]}\n" for i in range(20)))
    one_sentence(
        lambda: load_table((two[0], DataSpec(source=pairs, id="pairs")), PARTS),
        "every data entry must give the task the same columns", "reviews has text, label", "pairs has text, text_pair, label",
    )  # fmt: skip


def test_a_problem_names_its_entry(write, two):
    bad = write("bad.csv", "words,label\na,b\n")
    one_sentence(lambda: load_table((two[0], DataSpec(source=bad, id="mail")), PARTS), "data entry mail: bad.csv", "'words'")
