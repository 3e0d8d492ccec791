"""Bytes, FLOPs and collectives of programs of a few lines; all by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from poolformer_jax.aot.chips import CHIPS
from poolformer_jax.aot.report import ProgramReport, Traffic, read_program, read_work

KB = 1024
TILE = 4 * KB  # [8, 128] in float32.


def work_of(body: str, called: str = ""):
    """The work of an entry computation that has an array x of four tiles and an index i."""
    return read_work(f"""
{called}

ENTRY %main (x: f32[32,128], i: s32[]) -> f32[32,128] {{
  %x = f32[32,128]{{1,0:T(8,128)}} parameter(0)
  %i = s32[]{{:S(6)}} parameter(1)
{body}
}}
""")


def test_operands_are_read_and_results_are_written_with_their_padding():
    work = work_of("  ROOT %y = f32[3,5]{1,0:T(8,128)} custom-call(%x, %x)")
    assert (work.read, work.written, work.instructions) == (8 * TILE, TILE, 1)


def test_other_memory_than_hbm_is_not_counted():
    work = work_of("""
  %start = (f32[32,128]{1,0:T(8,128)S(1)}, f32[32,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %near = f32[32,128]{1,0:T(8,128)S(1)} copy-done(%start)
  %z = f32[32,128]{1,0:T(8,128)S(1)} negate(%near)
  ROOT %far = f32[32,128]{1,0:T(8,128)} negate(%z)""")
    assert (work.read, work.written, work.instructions) == (4 * TILE, 4 * TILE, 3)


def test_reserving_memory_is_free():
    work = work_of('  ROOT %y = f32[9]{0} custom-call(), custom_call_target="AllocateBuffer"')
    assert (work.hbm_bytes, work.instructions) == (0, 0)


@pytest.mark.parametrize(
    "instruction",
    [
        "f32[8,128]{1,0:T(8,128)} dynamic-slice(%x, %i, %i), dynamic_slice_sizes={8,128}",
        "f32[8,128]{1,0:T(8,128)} slice(%x), slice={[0:8], [0:128]}",
        "f32[8,128]{1,0:T(8,128)} gather(%x, %i), slice_sizes={1,128}",
    ],
)
def test_slices_are_read_as_slices(instruction):
    work = work_of(f"  ROOT %y = {instruction}")
    assert (work.read, work.written) == (TILE, TILE)


def test_started_slices_land_in_their_memory():
    work = work_of("""
  %s = ((f32[32,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x)
  ROOT %y = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%s)""")
    assert (work.read, work.written, work.instructions) == (TILE, 0, 1)


def test_updates_in_place_move_what_they_update():
    work = work_of("""
  %u = f32[8,128]{1,0:T(8,128)} constant({...})
  ROOT %y = f32[32,128]{1,0:T(8,128)} dynamic-update-slice(%x, %u, %i, %i)""")
    assert (work.read, work.written) == (TILE, TILE)


SLICED = """
%sliced (p: f32[32,128], q: s32[]) -> f32[8,128] {
  %p = f32[32,128]{1,0:T(8,128)} parameter(0)
  %q = s32[] parameter(1)
  %b = f32[32,128]{1,0:T(8,128)} bitcast(%p)
  %d = f32[8,128]{1,0:T(8,128)} dynamic-slice(%b, %q, %q)
  ROOT %e = f32[8,128]{1,0:T(8,128)} negate(%d)
}
"""
UPDATED = """
%updated (p: f32[32,128], q: s32[]) -> (f32[32,128], f32[8,128]) {
  %p = f32[32,128]{1,0:T(8,128)} parameter(0)
  %q = s32[] parameter(1)
  %c = f32[8,128]{1,0:T(8,128)} constant({...})
  %d = f32[32,128]{1,0:T(8,128)} dynamic-update-slice(%p, %c, %q, %q)
  %b = f32[32,128]{1,0:T(8,128)} bitcast(%d)
  ROOT %e = (f32[32,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}) tuple(%b, %c)
}
"""
NESTED = (
    SLICED
    + """
%nested (r: f32[32,128], s: s32[]) -> f32[8,128] {
  %r = f32[32,128]{1,0:T(8,128)} parameter(0)
  %s = s32[] parameter(1)
  ROOT %f = f32[8,128]{1,0:T(8,128)} fusion(%r, %s), kind=kLoop, calls=%sliced
}
"""
)
RENAMED = """
%renamed (p: f32[32,128]) -> f32[4096] {
  %p = f32[32,128]{1,0:T(8,128)} parameter(0)
  ROOT %b = f32[4096]{0:T(1024)} bitcast(%p)
}

%outer (r: f32[32,128]) -> f32[4096] {
  %r = f32[32,128]{1,0:T(8,128)} parameter(0)
  %f = f32[4096]{0:T(1024)} fusion(%r), kind=kLoop, calls=%renamed
  ROOT %g = f32[4096]{0:T(1024)} negate(%f)
}
"""
TWICE = """
%twice (p: f32[32,128], q: s32[]) -> f32[8,128] {
  %p = f32[32,128]{1,0:T(8,128)} parameter(0)
  %q = s32[] parameter(1)
  %d = f32[8,128]{1,0:T(8,128)} dynamic-slice(%p, %q, %q)
  %n = f32[32,128]{1,0:T(8,128)} negate(%p)
  ROOT %e = f32[8,128]{1,0:T(8,128)} custom-call(%d, %n)
}
"""


@pytest.mark.parametrize(
    ("called", "name", "type", "read", "written"),
    [
        (SLICED, "sliced", "f32[8,128]{1,0:T(8,128)}", TILE, TILE),
        (NESTED, "nested", "f32[8,128]{1,0:T(8,128)}", TILE, TILE),
        # In place, and once more as a result of its own, which lives in VMEM.
        (UPDATED, "updated", "(f32[32,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)})", 0, TILE),
        (RENAMED, "outer", "f32[4096]{0:T(1024)}", 4 * TILE, 4 * TILE),
        (TWICE, "twice", "f32[8,128]{1,0:T(8,128)}", 4 * TILE, TILE),  # All of it, once.
    ],
)
def test_fusions_are_looked_into(called, name, type, read, written):
    work = work_of(f"  ROOT %y.3 = {type} fusion(%x, %i), kind=kLoop, calls=%{name}", called)
    assert (work.read, work.written) == (read, written)
    assert [(one.operation, one.count, one.hbm_bytes) for one in work.consumers] == [
        ("y", 1, read + written)
    ]


LOOP = """
%body (t: (s32[], f32[32,128])) -> (s32[], f32[32,128]) {
  %t = (s32[], f32[32,128]{1,0:T(8,128)}) parameter(0)
  %k = s32[] get-tuple-element(%t), index=0
  %v = f32[32,128]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %y = f32[32,128]{1,0:T(8,128)} custom-call(%v), custom_call_target="tpu_custom_call"
  ROOT %u = (s32[], f32[32,128]{1,0:T(8,128)}) tuple(%k, %y)
}

%condition (s: (s32[], f32[32,128])) -> pred[] {
  ROOT %s = (s32[], f32[32,128]{1,0:T(8,128)}) parameter(0)
}
"""


@pytest.mark.parametrize(
    ("known", "turns", "unknown"), [(', "known_trip_count":{"n":"5"}', 5, 0), ("", 1, 1)]
)
def test_turns_of_loops_are_counted(known, turns, unknown):
    work = work_of(
        f"""
  %init = (s32[], f32[32,128]{{1,0}}) tuple(%i, %x)
  ROOT %w = (s32[], f32[32,128]{{1,0}}) while(%init), condition=%condition, body=%body{known}""",
        LOOP,
    )
    assert work.unknown_loops == unknown
    assert (work.read, work.written) == (turns * 4 * TILE, turns * 4 * TILE)
    assert work.instructions == turns
    assert work.kernels == {"y": Traffic(turns, turns * 8 * TILE)}


def test_a_conditional_takes_its_dearest_branch():
    work = work_of(
        "  ROOT %y = f32[9] conditional(%i, %x, %x), branch_computations={%keep, %double}",
        """
%keep (p: f32[32,128]) -> f32[32,128] {
  ROOT %p = f32[32,128]{1,0:T(8,128)} parameter(0)
}

%double (q: f32[32,128]) -> f32[32,128] {
  %q = f32[32,128]{1,0:T(8,128)} parameter(0)
  ROOT %r = f32[32,128]{1,0:T(8,128)} add(%q, %q)
}
""",
    )
    assert work.instructions == 1
    assert (work.read, work.written) == (8 * TILE, 4 * TILE)


def test_calls_are_followed():
    called = """
%double (q: f32[32,128]) -> f32[32,128] {
  %q = f32[32,128]{1,0:T(8,128)} parameter(0)
  ROOT %r = f32[32,128]{1,0:T(8,128)} negate(%q)
}
"""
    work = work_of("  ROOT %y = f32[32,128]{1,0} call(%x), to_apply=%double", called)
    assert work.hbm_bytes == 8 * TILE


def test_collectives_are_counted_by_their_results():
    work = work_of(
        """
  %r = (f32[3]{0:T(128)}, f32[5]{0:T(128)}) all-reduce(%a, %b), to_apply=%sum
  %s = (bf16[8,128]{1,0}, bf16[32,128]{1,0}) all-gather-start(%c), dimensions={0}
  %d = bf16[32,128]{1,0} all-gather-done(%s)
  %p = (f32[8]{0}, f32[8]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%e)
  %q = f32[8]{0} collective-permute-done(%p)
  ROOT %y = f32[16,128]{1,0:T(8,128)} fusion(%x), kind=kCustom, calls=%scattered""",
        """
%scattered (p: f32[32,128]) -> f32[16,128] {
  %p = f32[32,128]{1,0:T(8,128)} parameter(0)
  ROOT %r = f32[16,128]{1,0:T(8,128)} reduce-scatter(%p), dimensions={0}
}
""",
    )
    assert work.collectives == {
        "all-gather": Traffic(1, 32 * 128 * 2),
        "all-reduce": Traffic(1, 4 * 8),
        "collective-permute": Traffic(1, 4 * 8),
        "reduce-scatter": Traffic(1, 4 * 16 * 128),
    }


@pytest.mark.parametrize(
    ("operands", "product", "flops"),
    [
        (
            ("f32[5,3]", "f32[3,7]"),
            "f32[5,7] dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
            2 * 5 * 3 * 7,
        ),
        (
            ("f32[2,5,3]", "f32[2,3,7]"),
            "f32[2,5,7] dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}",
            2 * 2 * 5 * 3 * 7,
        ),
        # The product of a matrix, as TPUs have it.
        (
            ("f32[4,50,3]", "f32[3,7,1]"),
            "f32[4,50,7] convolution(%a, %b), window={size=1}, dim_labels=0bf_io0->0bf",
            2 * 4 * 50 * 3 * 7,
        ),
        # Its gradient: the sum over 4 is the window.
        (
            ("f32[4,50,3]", "f32[4,50,7]"),
            "f32[3,7,1] convolution(%a, %b), window={size=4}, dim_labels=0fb_0io->bf0",
            2 * 4 * 50 * 3 * 7,
        ),
        # A batch of 4 products: one tap of the window falls on data, the others on gaps.
        (
            ("f32[4,5,3]", "f32[4,3,7]"),
            "f32[4,5,7] convolution(%a, %b), window={size=4 stride=3 pad=3_3 lhs_dilate=4}, "
            "dim_labels=0bf_0io->0bf",
            None,
        ),
        # A causal convolution of 10 steps with 3 taps, which see 3 * 10 - 1 - 2 steps.
        (
            ("f32[2,10,6]", "f32[3,6,8]"),
            "f32[2,10,8] convolution(%a, %b), window={size=3 pad=2_0}, dim_labels=b0f_0io->b0f",
            2 * 2 * 6 * 8 * 27,
        ),
        # One filter a channel.
        (
            ("f32[2,10,6]", "f32[3,1,6]"),
            "f32[2,8,6] convolution(%a, %b), window={size=3}, dim_labels=b0f_0io->b0f, "
            "feature_group_count=6",
            2 * 2 * 8 * 6 * 3,
        ),
    ],
)
def test_flops_of_products(operands, product, flops):
    text = "".join(
        f"  %{name} = {type} parameter({number})\n"
        for number, (name, type) in enumerate(zip("ab", operands, strict=True))
    )
    work = read_work(f"ENTRY %main () -> f32[] {{\n{text}  ROOT %y = {product}\n}}")
    if flops is None:
        # Output o and tap k meet position 3 o + k - 3, which is data if 4 divides it.
        taps = sum(
            0 <= (position := 3 * o + k - 3) <= 12 and position % 4 == 0
            for o in range(4)
            for k in range(4)
        )
        flops = 2 * taps * 5 * 3 * 7
        assert taps == 4
    assert work.flops == flops


def test_a_compiled_loop_of_products_has_the_flops_of_all_turns(all_optimizations):
    def f(x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=6)[0]

    compiled = jax.jit(f).lower(jax.ShapeDtypeStruct((64, 64), jnp.float32)).compile()
    report = read_program(compiled, CHIPS["v5e"])
    assert report.work is not None
    assert report.work.unknown_loops == 0
    assert report.work.flops == 6 * 2 * 64**3


def report_with(**work) -> ProgramReport:
    text = "ENTRY %main () -> f32[] {\n  ROOT %y = f32[] constant(0)\n}"
    return ProgramReport(
        chip=CHIPS["v5e"],
        argument_bytes=0,
        output_bytes=0,
        temp_bytes=0,
        peak_bytes=0,
        code_bytes=0,
        work=dataclasses.replace(read_work(text), **work),
    )


def test_the_slower_side_binds():
    memory = report_with(read=819_000_000, written=819_000_000, flops=197)
    assert memory.roofline_seconds == pytest.approx(2e-3)
    assert memory.bound_by == "memory"
    compute = report_with(read=1, flops=197 * 10**9)
    assert compute.roofline_seconds == pytest.approx(1e-3)
    assert compute.bound_by == "compute"


class Unreadable:
    """A program that fails when it is turned to text."""

    def as_text(self):
        raise RuntimeError("INTERNAL: async-update\nmore")

    def memory_analysis(self):
        compiled = jax.jit(jnp.sin).lower(jax.ShapeDtypeStruct((8,), jnp.float32)).compile()
        return compiled.memory_analysis()


def test_a_program_without_text_keeps_its_memory():
    report = read_program(Unreadable(), CHIPS["v6e"])
    assert report.work is None
    assert report.unreadable == "INTERNAL: async-update"
    assert report.argument_bytes == 32
    assert report.memory_seconds is report.roofline_seconds is report.bound_by is None
