"""Parsing of HLO text, on programs of a few lines."""

import pytest

from poolformer_jax.aot.hlo import parse_arrays, parse_program, trip_count


@pytest.mark.parametrize(
    ("text", "size", "padded", "memory"),
    [
        ("f32[8,128]{1,0:T(8,128)}", 4096, 4096, 0),
        ("f32[3,100]{1,0:T(8,128)}", 1200, 4096, 0),
        ("f32[3,100]{0,1:T(8,128)}", 1200, 104 * 128 * 4, 0),  # 3 is the axis of the lanes.
        ("bf16[2,9,130]{2,1,0:T(8,128)(2,1)}", 4680, 2 * 16 * 256 * 2, 0),
        ("bf16[100]{0:T(256)}", 200, 512, 0),
        ("s32[]{:T(128)}", 4, 512, 0),
        ("f32[100]{0:T(8,128)}", 400, 4096, 0),  # One row of a tile.
        ("pred[7]{0:T(512)(128)(4,1)S(1)}", 7, 512, 1),
        ("u32[]{:S(2)}", 4, 4, 2),
        ("s4[64]{0:T(128)(8,1)}", 32, 64, 0),
        ("f8e4m3fn[16]", 16, 16, 0),
        ("f32[<=4,2]{1,0}", 32, 32, 0),
        ("token[]", 0, 0, 0),
    ],
)
def test_arrays_are_padded_to_whole_tiles(text, size, padded, memory):
    (array,) = parse_arrays(text)
    assert (array.size, array.padded_size, array.memory) == (size, padded, memory)


def test_tuples_are_flattened():
    arrays = parse_arrays("((f32[2]{0}), /*index=1*/bf16[3,4]{1,0}, s32[]{:S(2)})")
    assert [(array.dtype, array.dims) for array in arrays] == [
        ("f32", (2,)),
        ("bf16", (3, 4)),
        ("s32", ()),
    ]


def test_instructions_are_parsed():
    program = parse_program("""HloModule jit_f, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

%inner (p: f32[2]) -> f32[2] {
  ROOT %p.1 = f32[2]{0} parameter(0)
}

ENTRY %main.4 (x: f32[2], y: (f32[2], s32[])) -> f32[2] {
  %x = f32[2]{0} parameter(0), metadata={op_name="x"}
  %y = (f32[2]{0}, /*index=1*/s32[]{:T(128)}) parameter(1)
  %one.2 = f32[] constant(-1.5)
  ROOT %f.3 = f32[2]{0} fusion(%x, /*index=1*/%one.2), calls=%inner, metadata={op_name="add (1)"}
}
""")
    assert program.entry == "main.4"
    assert set(program.computations) == {"inner", "main.4"}
    main = program.computations["main.4"]
    assert [one.opcode for one in main.values()] == ["parameter", "parameter", "constant", "fusion"]
    assert main["f.3"].operands == ("x", "one.2")
    assert main["f.3"].called("calls") == "inner"
    assert main["f.3"].op_name == "add (1)"
    assert main["f.3"].is_root and not main["x"].is_root
    assert main["one.2"].literal == "-1.5" and main["one.2"].operands == ()
    assert len(main["y"].arrays) == 2


def test_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse_program("HloModule jit_f\n")


LOOP = """
%body (t: (s32[], s32[], f32[4])) -> (s32[], s32[], f32[4]) {
  %t = (s32[], s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %n = s32[] get-tuple-element(%t), index=1
  %x = f32[4]{0} get-tuple-element(%t), index=2
  %step = s32[] constant(STEP)
  %next = s32[] add(%i, %step)
  ROOT %out = (s32[], s32[], f32[4]{0}) tuple(%next, %n, %x)
}

%compared (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %less = pred[] compare(%a, %b), direction=DIRECTION
}

%condition (u: (s32[], s32[], f32[4])) -> pred[] {
  %u = (s32[], s32[], f32[4]{0}) parameter(0)
  %j = s32[] get-tuple-element(%u), index=0
  %m = s32[] get-tuple-element(%u), index=1
  %bound = s32[] constant(10)
  ROOT COMPARISON
}

ENTRY %main (x0: f32[4], n0: s32[]) -> (s32[], s32[], f32[4]) {
  %x0 = f32[4]{0} parameter(0)
  %n0 = s32[] parameter(1)
  %start = s32[] constant(START)
  %moved = s32[] copy(%start)
  %limit = s32[] constant(7)
  %init = (s32[], s32[], f32[4]{0}) tuple(%moved, LIMIT, %x0)
  ROOT %loop = (s32[], s32[], f32[4]{0}) while(%init), condition=%condition, body=%body KNOWN
}
"""
CONSTANT = "%c = pred[] compare(%j, %bound), direction=DIRECTION"
FUSED = "%c = pred[] fusion(%j, %bound), kind=kLoop, calls=%compared"
CARRIED = "%c = pred[] compare(%j, %m), direction=DIRECTION"


@pytest.mark.parametrize(
    ("changes", "turns"),
    [
        ({}, 10),
        ({"START": "4"}, 6),
        ({"STEP": "3"}, 4),
        ({"DIRECTION": "LE"}, 11),
        ({"START": "12"}, 0),
        ({"START": "15", "STEP": "-1", "DIRECTION": "GT"}, 5),
        ({"START": "15", "STEP": "-1", "DIRECTION": "GE"}, 6),
        ({"COMPARISON": FUSED}, 10),
        ({"COMPARISON": CARRIED}, 7),
        ({"COMPARISON": CARRIED, "LIMIT": "%n0"}, None),  # Known only when it is run.
        ({"COMPARISON": "%c = pred[] custom-call(%j)"}, None),
        ({"KNOWN": ', backend_config={"known_trip_count":{"n":"99"}}'}, 99),
    ],
)
def test_trip_counts(changes, turns):
    values = {"COMPARISON": CONSTANT, "STEP": "1", "DIRECTION": "LT", "START": "0"}
    values |= {"LIMIT": "%limit", "KNOWN": ""}
    text = LOOP
    for name, value in (values | changes).items():
        text = text.replace(name, value)
    program = parse_program(text)
    main = program.computations["main"]
    assert trip_count(program, main, main["loop"]) == turns
