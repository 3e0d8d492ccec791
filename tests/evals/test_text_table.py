from poolformer_jax.evals.text_table import text_table


def test_columns_are_aligned():
    lines = text_table([("a", "1"), ("name", "1,000")], ("", "clips")).splitlines()
    assert lines == ["      clips", "----  -----", "a         1", "name  1,000"]
