"""Makes the small Parquet files of tests/unit/data/files with pyarrow (tested with 26.0), and prints what they hold
as JSON Lines, as the test expects it. Usage: python parquet_files.py DIRECTORY"""
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq

out = sys.argv[1]
n = 40
table = pa.table({
    "s": pa.array([None if i % 7 == 3 else f"text {i % 5} \u00e9" for i in range(n)], pa.string()),
    "i32": pa.array([i * i - 700 for i in range(n)], pa.int32()),
    "i64": pa.array([None if i % 4 == 0 else -(1 << 62) + i for i in range(n)], pa.int64()),
    "u64": pa.array([(1 << 64) - 1 - i for i in range(n)], pa.uint64()),
    "u8": pa.array([i * 6 for i in range(n)], pa.uint8()),
    "f": pa.array([i / 8 for i in range(n)], pa.float32()),
    "d": pa.array([None if i % 9 == 0 else i / 10 for i in range(n)], pa.float64()),
    "b": pa.array([None if i % 5 == 1 else i % 3 == 0 for i in range(n)], pa.bool_()),
}, schema=pa.schema([("s", pa.string()), pa.field("i32", pa.int32(), nullable=False), ("i64", pa.int64()),
                     pa.field("u64", pa.uint64(), nullable=False), ("u8", pa.uint8()), ("f", pa.float32()),
                     ("d", pa.float64()), ("b", pa.bool_())]))
for codec in ("none", "snappy", "gzip", "zstd"):
    for version in ("1.0", "2.0"):
        pq.write_table(table, f"{out}/{codec}_v{version[0]}.parquet", compression=codec, data_page_version=version,
                       row_group_size=17, data_page_size=64, use_dictionary=["s", "i64", "d"], store_schema=False,
                       write_statistics=False)
pq.write_table(table.select(["i32"]), f"{out}/delta.parquet", use_dictionary=False, store_schema=False,
               column_encoding={"i32": "DELTA_BINARY_PACKED"}, write_statistics=False)
pq.write_table(pa.table({"tags": [["a", "b"], []]}), f"{out}/nested.parquet", store_schema=False)
pq.write_table(table.select(["s"]), f"{out}/lz4.parquet", compression="lz4", store_schema=False)
pq.write_table(table.slice(0, 0), f"{out}/empty.parquet", store_schema=False)
with open(f"{out}/rows.jsonl", "w", encoding="utf-8") as f:
    for row in table.to_pylist():
        f.write(json.dumps(row, ensure_ascii=False) + "\n")
