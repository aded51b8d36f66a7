"""Find out with Ray Tune how much of a file a published model must see to tell its language.

    python examples/tune_model.py MODEL_WHEEL

The model is guesslang (MIT), which tells programming languages apart; `pip download --no-deps guesslang==2.2.1` gets
its wheel. Four trials on two Ray nodes try four lengths. `hubdist.prefetch` brings the model to the two nodes' stores
before the trials start, so the wheel is read once, and each trial loads the model from its own node's disk.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray import tune

import hubdist
from hubdist.testing.cluster import RayCluster

FILES = {  # the model's name of the language -> the beginning of a file
    "py": """import sys
from pathlib import Path


def count(path):
    with open(path) as file:
        return sum(1 for line in file)
print(count(Path(sys.argv[1])))""",
    "c": """/* Counts lines. */
#include <stdio.h>
int main(int argc, char **argv) {
    FILE *file = fopen(argv[1], "r");
    int lines = 0, sign;
    while ((sign = fgetc(file)) != EOF) if (sign == '\\n') lines++;
    printf("%d\\n", lines);
    return 0; }""",
    "java": """package org.example;

import java.nio.file.Files;
import java.nio.file.Path;
public class Count {
    public static void main(String[] args) throws Exception {
        System.out.println(Files.lines(Path.of(args[0])).count());
    } }""",
    "sh": """#!/bin/sh
set -eu
if [ $# -ne 1 ]; then
    echo "usage: $0 FILE" >&2
    exit 2
fi
lines=$(wc -l < "$1")
echo "$lines" """,
    "sql": """-- Counts lines.
CREATE TABLE lines (
    file VARCHAR(255) NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (file, number)
);
INSERT INTO lines (file, number) VALUES ('a.txt', 1), ('a.txt', 2);
SELECT file, COUNT(*) FROM lines GROUP BY file ORDER BY file;""",
    "html": """<!DOCTYPE html>
<html lang="en">
<head><title>Lines</title></head>
<body>
<h1>Lines</h1>
<p>There are <b>two</b> of them.</p>
</body>
</html>""",
    "rs": """use std::env;
use std::fs;

fn main() {
    let path = env::args().nth(1).expect("a path");
    let text = fs::read_to_string(path).unwrap();
    println!("{}", text.lines().count());
}""",
    "go": """package main

import (
\t"fmt"
\t"os"
\t"strings"
)
func main() { text, _ := os.ReadFile(os.Args[1]); fmt.Println(strings.Count(string(text), "\\n")) }""",
}


def guess(config: dict[str, Any]) -> None:
    """One trial: show the model the first lines of each file."""
    import tensorflow as tf

    model = hubdist.load(config["handle"])
    beginnings = ["\n".join(text.splitlines()[: config["lines"]]) for text in FILES.values()]
    found = model.signatures["serving_default"](inputs=tf.constant(beginnings))
    best = tf.argmax(found["scores"], axis=1).numpy()
    names = [found["classes"].numpy()[row, column].decode() for row, column in enumerate(best)]
    right = sum(name == language for name, language in zip(names, FILES, strict=True))
    tune.report({"right": right, "node": ray.get_runtime_context().get_node_id()})


def main() -> None:
    """Start two nodes, bring the model to them, run the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="guesslang-2.2.1-py3-none-any.whl on this machine")
    options = parser.parse_args()
    handle = f"zip://guesslang/data/model::{options.wheel.resolve()}"

    quiet = {
        "log_to_driver": False,
        "logging_level": "warning",
        "runtime_env": {"env_vars": {"TF_CPP_MIN_LOG_LEVEL": "3"}},
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        RayCluster(Path(folder), nodes=2, cpus=1, **quiet) as cluster,
    ):
        hubdist.init(store=cluster.store)  # two nodes on one machine: a store for each
        print(hubdist.prefetch(handle))
        trials = tune.Tuner(
            guess,
            param_space={"handle": handle, "lines": tune.grid_search([1, 2, 3, 4])},
            tune_config=tune.TuneConfig(metric="right", mode="max", reuse_actors=True),
            run_config=tune.RunConfig(storage_path=f"{folder}/results", name="lines", verbose=0),
        ).fit()
        rows = sorted((trial.config["lines"], trial.metrics["right"]) for trial in trials)
        nodes = {trial.metrics["node"] for trial in trials}
        for lines, right in rows:
            print(f"{lines} lines: {right} of {len(FILES)} languages are told right")
        reads = [pin.origin_reads for pin in hubdist.status().pins]
        print(f"{len(rows)} trials on {len(nodes)} nodes, and the wheel was read {sum(reads)} time")


if __name__ == "__main__":
    main()
