"""Names of files that outputs get: one each, whatever they stand for."""

from hypothesis import given
from hypothesis import strategies as st

from ad3d_jax.workdir.names import plain_name, sample_name

TEXT = st.text(alphabet=st.sampled_from("a_.%5fF-/\\=ä€\ud800 \n~"), max_size=4)


def test_names_that_need_no_change_have_none():
    assert sample_name("hole", "000") == "hole_000"
    assert sample_name("big_hole", "part.000") == "big_hole_part.000"
    assert plain_name("a_b.c-d") == "a_b.c-d"


def test_odd_characters_by_hand():
    assert sample_name("a b", "c_d") == "a%20b_c%5fd"
    assert plain_name("../x") == "..%2fx"
    assert plain_name("\udcff") == "%ed%b3%bf"  # of a name that is no UTF-8


@given(TEXT, TEXT, TEXT, TEXT)
def test_two_samples_never_share_a_name(defect, stem, other_defect, other_stem):
    same = sample_name(defect, stem) == sample_name(other_defect, other_stem)
    assert same == ((defect, stem) == (other_defect, other_stem))


def test_long_names_stay_apart_and_short_enough():
    one, other = ("é" * 200 + end for end in "ab")
    names = {sample_name(one, one), sample_name(one, other), sample_name(other, one)}
    assert len(names) == 3
    assert all(len(name.encode()) < 250 for name in names)
