"""The page that lies in an export: what it is, and the lines that use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hocket.compiler.export.cpus import ExportCpu
    from hocket.runtime.artifact import Artifact

BUILD_LINE = "cc -std=c11 -O2 example.c -o example -L. -l{prefix} -Wl,-rpath,'$ORIGIN'"
"""Builds the example beside the library, on the device."""

_LIBRARY = """\
    #include "{prefix}.h"

    {prefix}_buffers buffers = {{.query = query, .query_bytes = {macro}_0_QUERY_BYTES, ...}};
    int code = {prefix}_attend(0, &buffers);
    if (code != {macro}_OK) puts({prefix}_message(code));

`{prefix}.h` says what each attention computes, in which sizes, and what all functions do.
`example.c` calls them all. On the device:

    {build}
    ./example

`lib{prefix}.a` is the same to be linked statically.
"""

_ONNXRUNTIME = """\
In Python, with nothing but onnxruntime and numpy:

    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library("./lib{prefix}_onnxruntime.so")
    session = onnxruntime.InferenceSession("model.onnx", options)
    outputs = session.run(None, feeds)

In C, with onnxruntime's own library and header:

    OrtSessionOptions *options;
    OrtSession *session;
    api->CreateSessionOptions(&options);
    api->RegisterCustomOpsLibrary_V2(options, "./lib{prefix}_onnxruntime.so");
    api->CreateSession(env, "model.onnx", options, &session);

Any onnxruntime from 1.17 on will do. The attention shares the session's threads.
"""


def readme_text(manifest: Mapping[str, Any], about: Sequence[str]) -> str:
    """Return the page of an export, in Markdown.

    Args:
        manifest: The manifest of the export.
        about: Lines for its top, see ``about_lines``.
    """
    prefix = manifest["prefix"]
    words = {
        "prefix": prefix,
        "macro": prefix.upper(),
        "build": BUILD_LINE.format(prefix=prefix),
    }
    use = (_LIBRARY if manifest["kind"] == "library" else _ONNXRUNTIME).format(**words)
    estimate = manifest["estimate"]
    lines = [
        f"# {manifest['model_name']} for {manifest['cpu']}",
        "",
        *(f"- {line}" for line in about),
        "",
        use.rstrip(),
        "",
        "## Sizes",
        "",
        *(f"- input {_described(spec)}" for spec in manifest["inputs"]),
        *(f"- output {_described(spec)}" for spec in manifest["outputs"]),
    ]
    if estimate is not None:
        milliseconds = f"{estimate['seconds'] * 1e3:.3g} ms"
        lines += [
            "",
            f"All attention together is predicted to take {milliseconds} on",
            f"`{manifest['target']}`, the machine that the module was compiled for. That is",
            "simulated, not measured.",
        ]
    return "\n".join((*lines, ""))


def about_lines(artifact: Artifact, cpu: ExportCpu) -> list[str]:
    """Return in some lines what an export is of and for."""
    return [
        f"{artifact.model_name}, {len(artifact.attention_steps)} attention(s)",
        f"for {cpu.name} ({cpu.machine}, Linux)",
        f"needs {', '.join(cpu.features) or 'nothing that such a machine may lack'}",
        f"made by {artifact.producer}",
        f"from module {artifact.digest}",
    ]


def _described(spec: Mapping[str, Any]) -> str:
    return f"`{spec['name']}`: {spec['dtype']} {list(spec['shape'])}"
