"""`jaxadd ask`: every seed answers, and what is no problem is said."""

import pytest
from lines import assert_one_line

from jaxadd.config import RunConfig
from jaxadd.models import PairMLP, Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.runs import train
from jaxadd.tasks import Addition, Group


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two networks that know what 1 digit plus 1 digit is in base 3."""
    task = Addition(digits=1, base=3, batch_size=32, test_examples=16, cascade_examples=4)
    model, optimizer = Transformer(d_model=32, heads=2, d_mlp=64), AdamW(lr=5e-3, weight_decay=0.0)
    config = RunConfig(task, model, optimizer, steps=300, seeds=(0, 1), eval_every=100, checkpoint_every=300)
    run = train(config, tmp_path_factory.mktemp("runs") / "adding", note=lambda _: None)
    assert all(lane["final_test_accuracy"] == 1 for lane in run.summary["lanes"])
    return run


def test_every_seed_answers_correctly(run, shell):
    problems = [f"{a}+{b}=" for a in range(3) for b in range(3)]
    status, out, error = shell("jaxadd", "ask", run.folder, *problems)
    assert status == 0, error
    sums = [f"{a}+{b}={(a + b) // 3}{(a + b) % 3}" for a in range(3) for b in range(3)]
    assert out.splitlines() == [f"seed {seed}  {text}" for seed in (0, 1) for text in sums]


def test_an_error_is_described_and_an_answer_may_be_given(run, shell):
    status, out, _ = shell("jaxadd", "ask", run.folder, "2+2=11", "--step", 0)
    assert status == 0
    assert "predicts " in out
    assert "the answer is 11" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name at least one problem, such as "),
        (("12+3=",), "expected 1 digits of base 3 where '12' stands in '12+3='"),
        (("2+2=12",), "'2+2=12' is incorrect: 2+2=11"),
        (("2+2", "--step", 5), "was not saved; there are 0, 300"),
    ],
)
def test_what_is_no_problem_is_said(run, shell, words, message):
    status, out, error = shell("jaxadd", "ask", run.folder, *words)
    assert (status, out) == (2, "")
    assert_one_line(error, message)


def test_products_in_a_group_are_answered(shell, tmp_path):
    config = RunConfig(
        Group(name="S3", equals="none", train_fraction=0.9),
        PairMLP(d_embed=16, neurons=32),
        AdamW(lr=2e-2),
        steps=300,
        eval_every=100,
        checkpoint_every=300,
    )
    train(config, tmp_path / "group", note=lambda _: None)
    status, out, error = shell("jaxadd", "ask", tmp_path / "group", "(1 2) * (2 3)", "e·e=")
    assert status == 0, error
    assert [line[:14] for line in out.splitlines()] == ["seed 0  (1 2)·", "seed 0  e·e" + out.splitlines()[1][11:14]]
    status, _, error = shell("jaxadd", "ask", tmp_path / "group", "(1 2) * (2 4)")
    assert status == 2
    assert_one_line(error, "'(1 2) * (2 4)' is no problem in S3; write a and b such as")


def test_problems_of_another_task_cannot_be_typed(complete, shell):
    status, _, error = shell("jaxadd", "ask", complete, "3+4=")
    assert status == 2
    assert_one_line(error, "ask needs a run of addition or of a group; this one was trained on the task modular")
