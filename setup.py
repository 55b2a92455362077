"""Build the extension with ninja against torch's stable ABI, or say why it is not built.

`DGM_FAST_BUILD` chooses: `auto` (C++ where a compiler is found, CUDA where nvcc is and torch has
CUDA; what fails is left out with a warning), `cpu` and `cuda` (C++, or both, but a failure stops
the build), `none`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"

# The oldest torch the binary runs under: 2.11.0, as torch/headeronly/version.h spells it.
TORCH_TARGET = "0x020b000000000000"
# Hopper's own instructions are 90a's alone; later GPUs compile what is left for themselves.
CUDA_ARCHITECTURES = ("80", "90a")
CUDA_PTX = "90"

# Loops over sqrt vectorise only where nobody reads errno or traps; sums keep their order.
CXX_FLAGS = ["-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-math-errno"]
CXX_FLAGS += ["-fno-trapping-math", "-ffp-contract=fast", "-Wall", "-Wno-psabi"]
# gcc 12 takes its own AVX-512 intrinsics for reads of uninitialised variables.
CXX_FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
# Copies of a few vectors stay loops: as calls to memcpy they cost more than they move.
CXX_FLAGS += ["-Wno-unknown-pragmas", "-fno-tree-loop-distribute-patterns"]


class Missing(Exception):
    """Something the build needs is not here."""


def torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise Missing("torch is not installed where the build runs (use --no-build-isolation)")

    return Path(spec.origin).parent


def torch_has_cuda() -> bool:
    """Whether torch could load what is built for CUDA; importing it would take seconds."""
    try:
        version = (torch_folder() / "version.py").read_text()
    except (Missing, OSError):
        return False

    return re.search(r"^cuda\b.*=\s*['\"]", version, flags=re.MULTILINE) is not None


def tool(variable: str, *names: str, hint: str) -> list[str]:
    """Return the command of a tool: what the environment variable names, else the first found."""
    named = shlex.split(os.environ.get(variable, ""))
    if named:
        if shutil.which(named[0]) is None:
            raise Missing(f"{variable}={os.environ[variable]} was not found: {hint}")
        return named

    for name in names:
        if shutil.which(name):
            return [name]

    raise Missing(f"{' or '.join(names)} was not found: {hint}")


def include_flags(*, python: bool) -> list[str]:
    torch = torch_folder() / "include"
    # -isystem: torch's headers are not ours to warn about.
    folders = [str(torch), str(torch / "torch/csrc/api/include")]
    if python:
        import pybind11

        # First, because torch brings a copy of pybind11, which some versions guard against us.
        folders = [pybind11.get_include(), sysconfig.get_paths()["include"], *folders]

    return [f"-I{CSRC}", *(flag for folder in folders for flag in ("-isystem", folder))]


def nvcc_flags() -> list[str]:
    """Flags that compile one .cu file; the tests compile with the same."""
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in CUDA_ARCHITECTURES]
    ptx = f"-gencode=arch=compute_{CUDA_PTX},code=compute_{CUDA_PTX}"
    flags = ["-O3", "-std=c++17", "-Xcompiler=-fPIC", "-DUSE_CUDA", *targets, ptx]
    return [*flags, f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *include_flags(python=False)]


class NinjaBuild(build_ext):
    """Compile each extension's sources and link them, rebuilding only what changed."""

    def run(self) -> None:
        mode = os.environ.get("DGM_FAST_BUILD", "auto")
        if mode not in ("auto", "cpu", "cuda", "none"):
            raise SystemExit(f"DGM_FAST_BUILD must be auto, cpu, cuda or none; got {mode!r}")

        wanted = ["dgm_fast._C"] if mode != "none" else []
        if mode == "cuda" or (mode == "auto" and torch_has_cuda()):
            wanted.append("dgm_fast._cuda")
        self.extensions = [each for each in self.extensions if each.name in wanted]
        for extension in list(self.extensions):
            try:
                self.build_with_ninja(extension)
            except (Missing, subprocess.CalledProcessError) as error:
                if mode == "cuda" or (mode == "cpu" and extension.name == "dgm_fast._C"):
                    raise SystemExit(f"{extension.name} cannot be built: {error}") from error

                print(f"warning: {extension.name} is left out: {error}", file=sys.stderr)
                self.extensions.remove(extension)

        if self.inplace:
            self.copy_extensions_to_source()

    def build_with_ninja(self, extension: Extension) -> None:
        folder = Path(self.build_temp).resolve() / extension.name
        folder.mkdir(parents=True, exist_ok=True)
        output = Path(self.get_ext_fullpath(extension.name)).resolve()
        if self.inplace:
            output = Path(self.build_lib).resolve() / self.get_ext_filename(extension.name)
        output.parent.mkdir(parents=True, exist_ok=True)

        rules = cuda_rules() if extension.name == "dgm_fast._cuda" else cpp_rules()
        objects = [(ROOT / s, folder / (s.replace("/", "_") + ".o")) for s in extension.sources]
        lines = [f"build {ninja_path(o)}: compile {ninja_path(s)}" for s, o in objects]
        all_objects = " ".join(ninja_path(o) for _, o in objects)
        lines += [f"build {ninja_path(output)}: link {all_objects}", ""]
        (folder / "build.ninja").write_text("\n".join([*rules, *lines]))
        subprocess.run([*ninja(), "-C", str(folder)], check=True)


def ninja_path(path: Path) -> str:
    return re.sub(r"([$: ])", r"$\1", str(path))


def ninja() -> list[str]:
    if importlib.util.find_spec("ninja") is not None:
        import ninja as package

        return [str(Path(package.BIN_DIR) / "ninja")]

    return tool("NINJA", "ninja", hint="pip install ninja")


def cpp_rules() -> list[str]:
    compiler = tool("CXX", "g++", "clang++", hint="install a C++17 compiler (apt install g++)")
    version = subprocess.run(
        [*compiler, "--version"], check=True, capture_output=True, text=True
    ).stdout.splitlines()[0]

    libraries = torch_folder() / "lib"
    flags = [*CXX_FLAGS, *include_flags(python=True), f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
    flags += [f'-DDGM_FAST_COMPILER="{version}"', f'-DDGM_FAST_TORCH_TARGET="{TORCH_TARGET}"']
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    link = ["-shared", f"-L{libraries}", "-ltorch_cpu", "-ltorch", "-lc10", *undefined]
    return rules(compiler, flags, link)


def cuda_rules() -> list[str]:
    compiler = tool("NVCC", "nvcc", hint="install the CUDA toolkit, or leave CUDA C++ out")
    # libtorch pulls in whichever of its parts this torch has, the CUDA one among them.
    libraries = torch_folder() / "lib"
    link = ["-shared", "-cudart=static", f"-L{libraries}", "-Xlinker", "--no-as-needed", "-ltorch"]
    return rules(compiler, nvcc_flags(), link)


def rules(compiler: list[str], flags: list[str], link: list[str]) -> list[str]:
    def command(words: list[str]) -> str:
        # Quoted for the shell that ninja runs, then for ninja itself.
        return " ".join(shlex.quote(word).replace("$", "$$") for word in words)

    return [
        "ninja_required_version = 1.3",
        "rule compile",
        f"  command = {command([*compiler, *flags])} -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = compile $in",
        "rule link",
        f"  command = {command(compiler)} $in {command(link)} -o $out",
        "  description = link $out",
    ]


def sources(*patterns: str) -> list[str]:
    found = (path for pattern in patterns for path in CSRC.glob(pattern))
    return sorted(str(path.relative_to(ROOT)) for path in found)


if __name__ == "__main__":
    setup(
        ext_modules=[
            Extension("dgm_fast._C", sources("module.cpp", "common/*.cpp", "*/cpu.cpp")),
            Extension("dgm_fast._cuda", sources("*/cuda.cu")),
        ],
        cmdclass={"build_ext": NinjaBuild},
    )
