from poolformer_jax.aot.table import align, cells

ROWS = [{"name": "a", "GB": 0.12345, "runs": 12345}, {"name": "bcd", "runs": 7, "why": "x"}]


def test_columns_are_all_that_any_row_has():
    assert cells(ROWS) == [
        ["name", "GB", "runs", "why"],
        ["a", "0.123", "12,345", ""],
        ["bcd", "", "7", "x"],
    ]


def test_columns_are_aligned_numbers_to_the_right():
    assert align(ROWS) == (
        "name     GB    runs  why\n"  #
        "a     0.123  12,345\n"
        "bcd               7  x"
    )
