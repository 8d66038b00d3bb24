"""The example of a search in the docstring of `run`."""

import re
import sys
from types import SimpleNamespace

from cmdl_hf import training


def test_the_example_searches_by_the_score_on_validation(monkeypatch):
    calls, scores = [], []

    class Study:
        def optimize(self, objective, n_trials):
            for number in range(n_trials):
                trial = SimpleNamespace(number=number, suggest_float=lambda *_, **__: 0.5)
                scores.append(objective(trial))

    (example,) = re.findall(r"```python\n(.*?)```", training.run.__doc__, flags=re.DOTALL)
    lines = [line.removeprefix(" " * 8) for line in example.splitlines()]
    assert sum(bool(line.strip()) for line in lines) <= 10
    optuna = SimpleNamespace(create_study=lambda direction: Study() if direction == "maximize" else None, Trial=object)
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    found = {"validation": {"mean_iou": 0.25}}
    monkeypatch.setattr(training, "run", lambda args, folder: calls.append((args, folder)) or found)
    exec("\n".join(lines), {})
    assert scores == [0.25] * 20
    assert len({folder for _, folder in calls}) == 20
    assert {(args.learning_rate, args.use_test_split) for args, _ in calls} == {(0.5, False)}
