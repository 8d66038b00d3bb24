"""Odd recipes, files of classes, lists of pairs and files of merged classes, drawn by a seed."""

import csv
import io
import json
import random

CLASSES = ["sky", "road", "car"]
PAIRS = [{"image": f"images/{name}.png", "mask": f"masks/{name}.png"} for name in ("a", "b", "c")]
RECIPE = {
    "benchmark": "own",
    "crop_size": [64, 64],
    "scale_range": [0.5, 2.0],
    "flip": True,
    "swapped_classes": [["road", "car"]],
    "rotation": 10.0,
    "framework": "fcn",
    "backbone": "resnet18",
    "output_stride": 16,
    "hidden_size": 16,
    "model_options": {"num_distributions": 2},
    "max_steps": 4,
    "total_batch_size": 2,
    "learning_rate": 0.02,
    "optimizer": "adamw",
    "validation_fraction": 0.4,
    "num_workers": 0,
    "seed": 3,
}
"""A recipe that is right."""

VALUES = [
    None,
    True,
    -1,
    0,
    2,
    10**30,
    1.5,
    1e-30,
    "",
    " ",
    "x",
    "../..",
    "none",
    "1e-3",
    "64",
    [],
    [1],
    [64, 64],
    ["a"],
]
VALUES += [
    [[]],
    {},
    {"a": 1},
    {"a": {"b": []}},
    "2026-01-01",
    float("inf"),
    float("nan"),
    "0x10",
    "a: b",
    "é\u202e",
    "~",
]
NAMES = [
    "",
    " ",
    "road",
    "Road",
    "255",
    "-1",
    "a,b",
    'a"b',
    "<b>",
    "é",
    "שלום",
    "a\tb",
    "x" * 300,
    "\u200b",
    "\x1b[31m",
]


def odd_recipe(seed):
    """Make a recipe; returns its name, its content as bytes, and the key that was changed with its value, or None."""
    draw = random.Random(f"recipe {seed}")
    recipe = dict(RECIPE)
    key = draw.choice(sorted(recipe))
    kind = draw.choice(["value", "value", "value", "extra", "option", "text", "list"])
    if kind == "value":
        recipe[key] = draw.choice(VALUES)
    elif kind == "extra":
        key = draw.choice(
            ["plugin", "merge_classes", "resize", "warmup_steps", "learning-rate", "Seed", "1", "ema_decay"]
        )
        recipe[key] = draw.choice(VALUES)
    elif kind == "option":
        option = draw.choice(["num_distributions", "memory_momentum", "num_labels", "dropout", "x", "hidden_size"])
        recipe["model_options"] = {option: draw.choice(VALUES)}
    lines = "".join(f"{name}: {_yaml(value)}\n" for name, value in recipe.items())
    if kind == "list":
        return "recipe.yaml", f"- {lines}".encode(), None
    if kind == "text":
        return "recipe.yaml", _damage(draw, lines.encode()), None
    return "recipe.yaml", lines.encode(), (key, recipe[key]) if kind != "option" else None


def _yaml(value):
    if isinstance(value, float) and value in (float("inf"),):
        return ".inf"
    return ".nan" if value != value else json.dumps(value, ensure_ascii=False)


def odd_classes(seed):
    """Make a file of classes; returns its name, its content, and how many classes it names (None if unclear)."""
    draw = random.Random(f"classes {seed}")
    kind = ("txt", "names.json", "ids.json", "csv", "table.csv", "many")[seed % 6]
    names = list(CLASSES)
    for _ in range(draw.choice([0, 1, 1, 2])):
        names.insert(draw.randrange(len(names) + 1), draw.choice([*NAMES, *names]))
    if kind == "many":
        names = [f"class {number}" for number in range(draw.choice([255, 256, 300, 3000]))]
        kind = draw.choice(["txt", "csv"])
    suffix, content, count = _write_classes(draw, kind, names)
    if draw.random() < 0.3:
        return f"classes.{suffix}", _damage(draw, content), None
    return draw.choice([f"classes.{suffix}"] * 5 + ["classes.yaml", "classes"]), content, count


def _write_classes(draw, kind, names):
    ids = list(range(len(names)))
    if kind != "txt" and draw.random() < 0.4:
        ids[draw.randrange(len(ids))] = draw.choice([0, 1, -1, 255, 256, 10**20, 1.5, "x", "", "01", None, True])
    if kind == "txt":
        return "txt", "\n".join(names).encode(), None if "" in map(str.strip, names) else len(names)
    if kind == "names.json":
        values = [draw.choice([None, 3, [], {}]) if draw.random() < 0.1 else name for name in names]
        return "json", json.dumps(values).encode(), len(names)
    if kind == "ids.json":
        pairs = ", ".join(f"{json.dumps(str(id_))}: {json.dumps(name)}" for id_, name in zip(ids, names, strict=True))
        return "json", f"{{{pairs}}}".encode(), len(names)
    if kind == "csv":
        return "csv", _csv(draw, ["id", "name"], [list(row) for row in zip(ids, names, strict=True)]), len(names)
    rows = [[id_, id_, name, 10 * number, 20, 30] for number, (id_, name) in enumerate(zip(ids, names, strict=True))]
    rows += [[255, 255, "ignore", 0, 0, 0]]
    rows[draw.randrange(len(rows))][draw.randrange(6)] = draw.choice([0, 1, 255, 256, -1, "", "x", None])
    return "csv", _csv(draw, ["raw_id", "train_id", "name", "red", "green", "blue"], rows), None


def _csv(draw, header, rows):
    """Write a table; now and then a row is longer or shorter than the header."""
    if draw.random() < 0.3:
        row = draw.choice(rows)
        row[:] = draw.choice([row[:-1], [*row, "more"], [], [*row, ""]])
    if draw.random() < 0.15:
        header = draw.choice([[*header, "more"], header[:-1], header[::-1], [name.upper() for name in header], []])
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=draw.choice([",", ",", ",", ";"])).writerows([header, *rows])
    return text.getvalue().encode()


def odd_pairs(seed):
    """Make a list of pairs; returns its name, its content, and how many pairs it names (None if unclear)."""
    draw = random.Random(f"pairs {seed}")
    rows = [dict(row) for row in PAIRS]
    odd = [
        "",
        " ",
        None,
        3,
        [],
        "none.png",
        "images",
        "/etc/passwd",
        "../a.png",
        "a\x00b",
        "x" * 5000,
        "images/a.png",
        "|",
    ]
    for _ in range(draw.choice([0, 1, 1, 2])):
        rows[draw.randrange(3)][draw.choice(["image", "mask", "split"])] = draw.choice([*odd, "train", "val", "dev"])
    if seed % 2:
        name, content = "pairs.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    else:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        name, content = "pairs.csv", _csv(draw, columns, [[row.get(each) for each in columns] for row in rows])
    if draw.random() < 0.35:
        return name, _damage(draw, content), None
    return (
        draw.choice([name] * 5 + ["pairs.txt", "pairs"]),
        content,
        None if content.count(b"\n") != 4 - seed % 2 else 3,
    )


def odd_merge(seed):
    """Make a file that merges classes; returns its name and its content."""
    draw = random.Random(f"merge {seed}")
    odd = [*CLASSES, *NAMES]
    rows = [
        [draw.choice([*CLASSES, draw.choice(odd)]), draw.choice(["", draw.choice(odd)])]
        for _ in range(draw.choice([0, 1, 2, 4]))
    ]
    content = _csv(draw, ["from", "to"], rows or [["road", ""]])
    return "merge.csv", _damage(draw, content) if draw.random() < 0.35 else content


def _damage(draw, content):
    """Cut a text, flip bits in it, repeat or drop a line, or save it in another encoding."""
    kind = draw.choice(
        ["cut", "bits", "repeat", "drop", "utf-16", "latin-1", "bom", "crlf", "nul", "deep", "empty", "binary"]
    )
    lines = content.splitlines(keepends=True)
    place = draw.randrange(len(content) or 1)
    made = {
        "cut": content[:place],
        "bits": content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :],
        "repeat": b"".join([*lines, draw.choice(lines)]),
        "drop": b"".join(lines[1:]),
        "utf-16": content.decode().encode("utf-16"),
        "latin-1": content + "é".encode("latin-1"),
        "bom": b"\xef\xbb\xbf" + content,
        "crlf": content.replace(b"\n", b"\r\n"),
        "nul": content[:place] + b"\0" + content[place:],
        "deep": b"[" * 5000,
        "empty": b"",
        "binary": draw.randbytes(2000),
    }
    return made[kind]
