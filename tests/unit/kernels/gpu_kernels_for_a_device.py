"""Compile every Triton kernel for two generations of devices; needs no device, only the compiler. Run by its test."""

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stepwell.kernels.gpu import attention, pinned, sample

QUERIES = {"nodes": "*i64", "times": "*i64", "before": "*i64", "num_queries": "i32", "num_nodes": "i32"}
INDEX = {"indptr": "*i64", "neighbor": "*i32", "event": "*i32", "time": "*i64"}
FOUND = {"node": "*i64", "position": "*i64", "dt": "*i64", "mask": "*i1"}
SAMPLE = {**QUERIES, **INDEX, **FOUND}
ROWS = {"neighbor_row": "*i64", "event_row": "*i64", "mask": "*i1", "owned": "*i64", "begin": "*i64"}
NUMBERS = {"scale": "fp32", "width": "i32", "places": "i32", "row_width": "i32"}
WIDTHS = {"H": 2, "K": 10, "D": 100, "T": 100, "F": 172, "TILE_K": 16, "TILE_D": 128, "TILE_T": 128, "TILE_F": 256}
GATHER = {"rows": "*i64", "num_asked": "i32", "num_rows": "i64", "width": "i32"}
CASES = [
    (sample._recent, {**SAMPLE, "width": "i64"}, {"WINDOW": True, "K": 10, "ROWS": 32, "TILE": 16}),
    (sample._recent, {**SAMPLE, "width": "i32"}, {"WINDOW": False, "K": 1, "ROWS": 512, "TILE": 1}),
    (sample._uniform, {**SAMPLE, "rows": "*i64", "key": "i64", "lane": "i64"}, {"K": 10, "ROWS": 16, "TILE": 16}),
    (attention._forward, {**ROWS, **NUMBERS}, {**WIDTHS, "KEEP": True}),
    (attention._backward, {**ROWS, **NUMBERS}, {**WIDTHS, "KEEP": True, "TIMED": True}),
    (attention._backward, {**ROWS, **NUMBERS}, {**WIDTHS, "KEEP": False, "TIMED": False}),
    (attention._backward_rows, {**ROWS, **NUMBERS}, {"H": 2, "TILE_D": 128, "KEEP": True, "STEP": 16}),
    *((pinned._gather, {**GATHER, "source": w, "target": w}, {"ROWS": 4, "TILE": 256}) for w in ("*i64", "*u8")),
]

for capability in (80, 90):
    for kernel, types, constants in CASES:
        names = kernel.arg_names
        signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in names}
        source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
        options = {"num_warps": 8, "enable_fp_fusion": True}
        compiled = compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)
        print(capability, kernel.__name__, len(compiled.asm["cubin"]))  # noqa: T201 - its test counts the lines
