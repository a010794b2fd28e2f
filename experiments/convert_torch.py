"""Converts a torch file of weights to safetensors.

Opening a torch file runs what it holds through an unpickler, whose restrictions have
been broken before. Run this where nothing is to be lost: in a throw-away environment,
without network, on files whose source you trust. It is the one place that opens such a
file, imports nothing of the library, and nothing of the library imports it.

    pip install "torch>=2.10" safetensors numpy
    python -m experiments.convert_torch SOURCE.pth TARGET.safetensors

Dots in names become "/". Shapes and the order of axes stay torch's (convolutions
[out,in,height,width], dense layers [out,in]). Numbers and text beside the tensors are
left out and listed. The metadata of the target name the source and its SHA-256.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Releases before it open hostile files unsafely, even weights alone.
SAFE_TORCH = (2, 10)


def main(arguments: list[str] | None = None) -> None:
    """Converts one file; ends with one sentence where that is not possible."""
    parser = argparse.ArgumentParser(
        description="Converts a torch file of weights to safetensors.",
        epilog="Run it in a throw-away environment, on files whose source you trust.",
    )
    parser.add_argument("source", type=Path, help="file saved by torch (.pth, .pt, …)")
    parser.add_argument("target", type=Path, help="file to write, .safetensors")
    options = parser.parse_args(arguments)
    if options.target.suffix != ".safetensors":
        parser.error(f"{options.target}: expected a name that ends in .safetensors")
    if not options.source.is_file():
        parser.error(f"{options.source}: there is no such file")
    torch = _torch()
    content = _opened(torch, options.source)
    tensors, left_out = {}, []
    for name, value in _leaves(content, ()):
        if isinstance(value, torch.Tensor):
            tensors[name] = _array(torch, value)
        else:
            left_out.append(name)
    if not tensors:
        sys.exit(f"{options.source}: expected tensors by name, found none")
    digest = _fingerprint(options.source)
    _write(options.target, tensors, {"source": options.source.name, "sha256": digest})
    print(f"{options.target}: {len(tensors)} tensors, sha256 of the source {digest}")
    print(f"sha256 of the result {_fingerprint(options.target)}")
    if left_out:
        print(f"left out, not tensors: {', '.join(left_out)}")


def _torch():
    """Returns the torch module, or ends with what to install."""
    try:
        import torch
    except ImportError:
        sys.exit(
            "this script needs torch, which is not installed here; install it in a"
            ' throw-away environment: pip install "torch>=2.10" safetensors numpy'
        )
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < SAFE_TORCH:
        sys.exit(f"expected torch 2.10 or later, found {torch.__version__}")
    return torch


def _opened(torch, source: Path):
    """Returns the content of the file, opened as weights alone."""
    import pickle

    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        sys.exit(f"{source}: expected tensors alone, found: {error}")


def _leaves(content, path: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    """Yields (name, value) of nested dictionaries and lists, names joined by "/"."""
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    else:
        yield "/".join(path), content
        return
    for key, value in items:
        yield from _leaves(value, (*path, str(key).replace(".", "/")))


def _array(torch, tensor):
    """Returns a contiguous NumPy copy; bfloat16, which NumPy lacks, as float32."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.to(torch.float32)
    return tensor.contiguous().numpy().copy()


def _fingerprint(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(target: Path, tensors: dict, metadata: dict[str, str]) -> None:
    """Writes beside the target, then renames over it."""
    import safetensors.numpy

    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_bytes(safetensors.numpy.save(tensors, metadata))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
