#!/usr/bin/env python3
"""Turns the reference results of a model (JSON) into tests/data/reference_MODEL.txt.

    tools/make_reference.py smollm2.json > tests/data/reference_smollm2.txt

The JSON holds {"model", "note", "cases": [{"text", "ids", "mean_nll", "logits": [{"pos",
"logsumexp", "top": [[id, logit], ...]}], "with_bos": {"bos", "mean_nll", "last_top"}}]}.
The format of the text file is described at the top of tests/reference.h, which reads it.
"""
import json
import sys
import textwrap


def pairs(top):
    return " ".join(f"{i} {x}" for i, x in top)


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        ref = json.load(f)
    out = sys.stdout
    out.reconfigure(encoding="utf-8", newline="\n")
    out.write("# Made by tools/make_reference.py; read by tests/reference.h; origin: README.md.\n")
    out.write("\n".join(textwrap.wrap(ref["note"], 98, initial_indent="# ",
                                      subsequent_indent="# ")) + "\n")
    out.write(f"model {ref['model']}\n")
    for case in ref["cases"]:
        text = case["text"].replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
        if text.endswith(" "):
            text = text[:-1] + "\\s"
        out.write(f"case\ntext {text}\nids {len(case['ids'])}\n")
        out.write("\n".join(textwrap.wrap(" ".join(map(str, case["ids"])), 100)) + "\n")
        out.write(f"mean_nll {case['mean_nll']}\n")
        for at in case["logits"]:
            out.write(f"logits {at['pos']} {at['logsumexp']} {len(at['top'])} {pairs(at['top'])}\n")
        if "with_bos" in case:
            bos = case["with_bos"]
            out.write(f"with_bos {bos['bos']} {bos['mean_nll']} {len(bos['last_top'])} "
                      f"{pairs(bos['last_top'])}\n")
        out.write("end\n")


main()
