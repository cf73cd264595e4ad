"""The README that lies in each sweep's folder: what is where, and how to read it without causalsweep."""

from __future__ import annotations

from typing import Final

NAME: Final = "README.md"

_TEXT: Final = """# {name}

A sweep of causalsweep: which variables of a causal model a language model keeps, at which layer and token.

| file | what it is |
|---|---|
| `sweep.yaml` | the spec, as it was resolved |
| `cells.parquet` | every planned cell: experiment, layer, position, site, seed, method |
| `store/results.parquet` | the results: one row per cell and setting, for pandas, Polars and DuckDB |
| `alignments/` | what each cell learned, one safetensors file a cell; `index.parquet` says which file is which cell's |
| `traces/` | loss and IIA of each cell while it learned, and what it does on ten pairs; the report shows them |
| `report/index.html` | maps and tables, offline; `causalsweep report {name}` writes them |
| `logs/` | a log for each job |
| `shards/` | the rows as each job wrote them: the store is gathered from these |
| `jobs/`, `submissions/`, `progress/`, `checkpoints/`, `cluster/` | jobs, their submissions, and how far they are |
| `tasks/`, `data/`, `autoencoders/` | copies of your files, as planned |

```python
import pandas as pd
rows = pd.read_parquet("store/results.parquet")  # n_correct of n_total pairs, and the same for each control

import causalsweep
index = pd.read_parquet("alignments/index.parquet")
alignment = causalsweep.load_alignment(index.sort_values("iia")["file"].iloc[-1])
alignment.subspace(alignment.variables[0])  # an orthonormal basis
```

Nothing else holds any state. The folder can be copied or moved; `causalsweep status`, `resume` and `report` take its
path. Files that begin with `.` or end in `.tmp` are being written.
"""


def readme_of(name: str) -> str:
    """The text for the sweep of this name."""
    return _TEXT.format(name=name)
