"""Tell the language of pieces of source code with Ray Data on two Ray nodes, with a model that only the driver has.

    python examples/batch_prediction.py MODEL_WHEEL

The model is guesslang (MIT), a TensorFlow SavedModel inside the wheel `guesslang==2.2.1`, which
`pip download --no-deps guesslang==2.2.1` gets. The driver names a directory inside that file. Each actor of the pool
loads the model from its node's store. The same question is asked twice: by `map_batches`, and by an expression.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import ray
from ray.data.datatype import DataType
from ray.data.expressions import col

import hubdist
from hubdist.integrations.ray_data import Predictor, predict_column
from hubdist.testing.cluster import RayCluster

CODE = {
    "py": "import os\n\n\ndef sizes(folder):\n    return {e.name: e.stat().st_size for e in os.scandir(folder)}\n",
    "c": '#include <stdio.h>\n\nint main(void) {\n    printf("%s\\n", "hello");\n    return 0;\n}\n',
    "java": "import java.util.List;\n\npublic class Main {\n    public static void main(String[] args) {\n"
    "        System.out.println(List.of(args).size());\n    }\n}\n",
    "js": "const fs = require('fs');\n\nfs.readFile('a.txt', 'utf8', (err, data) => {\n"
    "  if (err) throw err;\n  console.log(data.split('\\n').length);\n});\n",
    "rs": "use std::collections::HashMap;\n\nfn main() {\n    let mut seen: HashMap<String, u32> = HashMap::new();\n"
    '    *seen.entry("a".to_string()).or_insert(0) += 1;\n    println!("{:?}", seen);\n}\n',
    "go": 'package main\n\nimport "fmt"\n\nfunc main() {\n\tfor i := 0; i < 3; i++ {\n\t\tfmt.Println(i)\n\t}\n}\n',
    "sql": "SELECT name, count(*) AS orders\nFROM customers\nJOIN orders USING (customer_id)\nGROUP BY name;\n",
    "html": '<!DOCTYPE html>\n<html>\n<head><title>Hi</title></head>\n<body><p class="a">Hi</p></body>\n</html>\n',
    "sh": '#!/bin/bash\nset -e\nfor file in *.log; do\n  gzip "$file"\n  echo "done: $file"\ndone\n',
    "rb": "class Word\n  attr_reader :text\n\n  def initialize(text)\n    @text = text\n  end\nend\n\n"
    "puts Word.new('a').text\n",
}
"""The name of a language, as the model has it -> code in it."""

LANGUAGES = 54  # that the model knows
COPIES = 40  # of each piece of code


def best(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The most probable language of each row, and how sure the model is of it."""
    at = batch["scores"].argmax(axis=1)
    guesses = np.array([names[i].decode() for names, i in zip(batch["classes"], at, strict=True)])
    return {"language": batch["language"], "guess": guesses, "score": batch["scores"].max(axis=1)}


def main() -> None:
    """Start two nodes, predict, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="guesslang-2.2.1-py3-none-any.whl on this machine")
    handle = f"zip://guesslang/data/model::{parser.parse_args().wheel.resolve()}"
    quiet = {"env_vars": {"TF_CPP_MIN_LOG_LEVEL": "3"}}
    with (
        tempfile.TemporaryDirectory() as folder,
        RayCluster(Path(folder), nodes=2, cpus=2, log_to_driver=False, runtime_env=quiet) as cluster,
    ):
        hubdist.init(store=cluster.store)
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"language": name, "code": code} for name, code in CODE.items()] * COPIES
        dataset = ray.data.from_items(rows)

        predicted = dataset.map_batches(
            Predictor,
            fn_constructor_args=[handle],
            fn_constructor_kwargs={"inputs": {"code": "inputs"}, "pad_to": 64},
            batch_size=64,
            compute=ray.data.ActorPoolStrategy(size=1),
            zero_copy_batch=True,
        )
        found = predicted.map_batches(best).to_pandas()

        scores = predict_column(handle, "scores", return_dtype=DataType.tensor((LANGUAGES,), DataType.float32()))
        column = dataset.limit(len(CODE)).with_column("scores", scores(inputs=col("code")))
        by_expression = {row["language"]: row["scores"].max() for row in column.take_all()}
        status = hubdist.status()

    for language, group in found.groupby("language", sort=False):
        (guess,) = group["guess"].unique()
        print(f"{language:4} {len(group)} rows: {guess}, {group['score'].mean():.2f}")
    right = (found["language"] == found["guess"]).mean()
    print(f"{len(found)} rows, {right:.0%} right; the origin was read {status.pins[0].origin_reads} time")
    same = found.groupby("language")["score"].max()
    differ = max(abs(same[language] - score) for language, score in by_expression.items())
    print(f"by an expression the scores are the same: {differ < 1e-5}")


if __name__ == "__main__":
    main()
