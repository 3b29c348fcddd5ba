"""Schemas become widgets: tested without drawing, and once drawn."""

import pytest
from pydantic import Field
from streamlit.testing.v1 import AppTest

from workbench.core.errors import WorkbenchError
from workbench.core.spec import TrainingSpec
from workbench.core.types import ROLES, Placement
from workbench.ui import building, forms


class Options(Placement):
    """One field of each sort."""

    rank: int = Field(8, ge=1, le=4096, description="Rank of the change.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share dropped.")
    scale: float = Field(1.0, gt=0, le=1000, description="A factor.")
    cut: int | None = Field(None, ge=2, description="Empty means never.")
    tied: bool = Field(False, description="One for all.")
    positions: str = Field("f1+l1", description="Where.")
    weights: tuple[float, ...] | None = Field(None, description="One each.")


FIELDS = {f.name: f for f in forms.fields(Options.model_json_schema())}


@pytest.mark.parametrize(
    ("name", "kind", "low", "high", "optional"),
    [
        ("rank", "integer", 1, 4096, False),
        ("dropout", "share", 0, 1 - forms.EDGE, False),
        ("scale", "number", forms.EDGE, 1000, False),
        ("cut", "integer", 2, None, True),
        ("tied", "toggle", None, None, False),
        ("positions", "text", None, None, False),
        ("weights", "list", None, None, True),
        ("roles", "roles", None, None, True),
        ("depths", "list", None, None, True),
        ("tower", "text", None, None, True),
    ],
)
def test_type_and_bounds_choose_the_widget(name, kind, low, high, optional):
    field = FIELDS[name]
    assert (field.kind, field.low, field.high, field.optional) == (kind, low, high, optional)
    assert field.help == Options.model_fields[name].description


def test_roles_offer_every_role_and_choices_their_values():
    assert FIELDS["roles"].options == ROLES
    training = {f.name: f for f in forms.fields(TrainingSpec.model_json_schema())}
    assert training["scheduler"].kind == "choice"
    assert training["scheduler"].options == ("linear", "cosine", "constant")
    assert training["learning_rate"].kind == "text"


@pytest.mark.parametrize(
    ("text", "value"), [("0, 2-4", [0, "2-4"]), ("1.5", [1.5]), ("", []), ("-1,-2", [-1, -2]), ("true", ["true"])]
)
def test_lists_are_read_as_one_types_them(text, value):
    assert forms.parse_list(text) == value
    assert forms.parse_list(forms.as_text(value)) == value


def test_a_hole_in_a_list_is_one_sentence():
    with pytest.raises(WorkbenchError, match=r"^a list must be values with commas between them; got '1,,2'\.$"):
        forms.parse_list("1,,2")


@pytest.mark.parametrize(("text", "value"), [("0, 1, 2", [0, 1, 2]), ("0-3", [0, 1, 2, 3]), ("7 9", [7, 9]), ("", [])])
def test_seeds_are_lists_or_ranges(text, value):
    assert building.seeds(text) == value


@pytest.mark.parametrize("text", ["a", "1.5", "3-1", "-1"])
def test_other_seeds_are_refused(text):
    with pytest.raises(WorkbenchError, match=r"^seeds must be whole numbers with commas"):
        building.seeds(text)


def drawn():
    import streamlit as st

    from tests.pages.test_forms import Options
    from workbench.ui import forms

    st.session_state["given"] = forms.config_form(Options.model_json_schema(), "form", {"rank": 4})


def test_an_untouched_form_gives_nothing_and_a_changed_one_what_changed():
    at = AppTest.from_function(drawn, default_timeout=30).run()
    assert not at.exception
    assert at.session_state["given"] == {}
    assert at.number_input(key="form.rank").value == 4
    assert (at.number_input(key="form.rank").min, at.number_input(key="form.rank").max) == (1, 4096)
    assert at.number_input(key="form.cut").value is None
    at.number_input(key="form.rank").set_value(16)
    at.multiselect(key="form.roles").set_value(["attn.q", "attn.v"])
    at.text_input(key="form.depths").set_value("0-2, 5")
    at.toggle(key="form.tied").set_value(True)
    at.run()
    assert at.session_state["given"] == {"rank": 16, "roles": ["attn.q", "attn.v"], "depths": ["0-2", 5], "tied": True}
    Options.model_validate(at.session_state["given"])
