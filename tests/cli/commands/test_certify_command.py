"""`jaxadd certify`: a verdict, a certificate to check, progress that is resumed, and one line for bad input."""

import json

import jax
import numpy as np
import pytest
from lines import assert_one_line
from networks import column_adder, drawn

from jaxadd import interop
from jaxadd.cli.commands import certify as command
from jaxadd.models import Transformer
from jaxadd.tasks import Addition, Modular

FLAGS = ("--task", "addition", "--task.digits", 2, "--task.base", 3, "--task.answer-order", "lsd")
FLAGS += ("--task.operand-order", "lsd")


@pytest.fixture(scope="module")
def network():
    return column_adder(Addition(digits=2, base=3, answer_order="lsd", operand_order="lsd"))


@pytest.fixture
def file(network, tmp_path):
    path = tmp_path / "adder.pth"
    interop.write(path, network.params, network.model)
    return path


def test_a_checkpoint_is_proven_and_its_certificate_checked(file, shell, tmp_path):
    status, out, error = shell("jaxadd", "certify", file, *FLAGS, "--method", "bounds")
    assert status == 0, error
    assert "proven: all 81 problems are answered correctly" in out
    path = tmp_path / "adder-certificate" / "certificate.json"
    data = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (data["verdict"], data["method"], data["problems"]) == ("proven", "bounds", 81)
    assert not (path.parent / "progress.jsonl").exists()
    status, out, error = shell("jaxadd", "certify", file, *FLAGS, "--check", path)
    assert status == 0, error
    assert "holds: proven" in out
    data["parts"][1]["bounds"]["0"][0] += 1
    path.write_text(json.dumps(data))
    assert_one_line(shell("jaxadd", "certify", file, *FLAGS, "--check", path)[2], "the bound of A1")


def test_a_certificate_of_another_network_is_never_replaced(network, file, shell, tmp_path):
    words = ("jaxadd", "certify", file, *FLAGS, "--method", "bounds", "--out", tmp_path / "proof")
    assert [shell(*words)[0] for _ in range(2)] == [0, 0]  # The same network again.
    before = (tmp_path / "proof" / "certificate.json").read_bytes()
    changed = jax.tree.map(lambda w: 2 * w, network.params)
    interop.write(file, changed, network.model)
    assert_one_line(shell(*words)[2], "is of another network or other problems; name another folder with --out")
    assert (tmp_path / "proof" / "certificate.json").read_bytes() == before


def test_a_certification_that_was_killed_goes_on(network, tmp_path, monkeypatch):
    whole, _ = command.certify_in(tmp_path / "whole", network, "bounds")
    examined = []
    examine = command.Certification.examine

    def until_killed(self, part, watch):
        if len(examined) == 2:
            raise KeyboardInterrupt
        examined.append(part)
        return examine(self, part, watch)

    monkeypatch.setattr(command.Certification, "examine", until_killed)
    with pytest.raises(KeyboardInterrupt):
        command.certify_in(tmp_path / "killed", network, "bounds")
    examined.clear()
    monkeypatch.setattr(
        command.Certification,
        "examine",
        lambda self, part, watch: examined.append(part) or examine(self, part, watch),
    )
    resumed, _ = command.certify_in(tmp_path / "killed", network, "bounds")
    assert examined == [(2,)]
    assert [part["bounds"] for part in resumed.parts] == [part["bounds"] for part in whole.parts]


def test_a_network_is_certified_on_longer_numbers_than_it_was_trained_on(shell, tmp_path):
    task = Addition(digits=1, base=3, answer_order="lsd", operand_order="lsd", separators="zeros")
    config = Transformer(d_model=8, heads=2, d_mlp=8, positions="rope")
    flags = ("--task", "addition", "--task.digits", 1, "--task.base", 3, "--task.separators", "zeros", *FLAGS[6:])
    model = config.build(task.sizes)
    interop.write(tmp_path / "short.pth", drawn(model), model, layout="transformer-lens")
    for digits, problems in ((1, 9), (2, 81)):
        status, _, error = shell("jaxadd", "certify", tmp_path / "short.pth", *flags, "--digits", digits)
        assert status == 0, error
        path = tmp_path / f"short-certificate-digits{digits}" / "certificate.json"
        data = json.loads(path.read_text())
        assert (data["problems"], data["space"]["digits"]) == (problems, digits)
        status, _, error = shell(
            "jaxadd", "certify", tmp_path / "short.pth", *flags, "--digits", digits, "--check", path
        )
        assert status == 0, error
    assert_one_line(shell("jaxadd", "certify", tmp_path / "short.pth", *flags, "--check", path)[2], "another space")


def test_errors_are_saved_as_problems_to_train_on(shell, tmp_path):
    task = Addition(digits=2, base=3, answer_order="lsd", operand_order="lsd")
    model = Transformer(d_model=8, heads=2, d_mlp=8).build(task.sizes)
    interop.write(tmp_path / "bad.pth", drawn(model), model)
    status, out, error = shell("jaxadd", "certify", tmp_path / "bad.pth", *FLAGS, "--problems", tmp_path / "errors")
    assert status == 0, error
    assert "refuted:" in out
    lines = (tmp_path / "errors").read_text().splitlines()
    assert lines
    for line in lines:
        operands, answer = task.parse(line)
        assert (np.asarray(task.features(operands).answer) == answer).all()


def test_bad_input_is_said_in_one_line(file, shell, tmp_path):
    assert_one_line(shell("jaxadd", "certify", tmp_path / "nothing")[2], "there is no")
    task = Modular(p=5)
    model = Transformer(d_model=8, heads=2, d_mlp=8).build(task.sizes)
    interop.write(tmp_path / "modular.pth", drawn(model), model)
    assert_one_line(
        shell("jaxadd", "certify", tmp_path / "modular.pth", "--method", "bounds")[2], "bounds cover addition"
    )
    (tmp_path / "broken.json").write_text("{")
    for words, message in (
        ((file, *FLAGS, "--step", 3), "is a checkpoint, the state of one step; leave --step out"),
        ((file, *FLAGS, "--check", "a", "--method", "search"), "--method is for making a certificate"),
        ((file, *FLAGS, "--digits", 3), "its pos_embed.W_pos is (8, 15), and would be (11, 15)"),
        ((file, *FLAGS, "--problems", file / "errors"), "where a folder should be"),
        ((file, *FLAGS, "--digits", 0), "digits must be from 1 to 1000"),
        ((file, *FLAGS, "--check", "a", "--out", "b"), "--out is for making a certificate"),
        ((tmp_path / "modular.pth", "--digits", 3), "--digits is for addition; this network is of"),
        ((tmp_path / "modular.pth", "--problems", "errors"), "the errors of other tasks; this network is of"),
        ((tmp_path, "--task", "addition"), "--task, --fields and --key are for checkpoint files"),
        ((tmp_path, "--key", "model"), "--task, --fields and --key are for checkpoint files"),
    ):
        assert_one_line(shell("jaxadd", "certify", *words)[2], message)
    assert_one_line(
        shell("jaxadd", "certify", file, *FLAGS, "--check", tmp_path / "broken.json")[2], "no certificate"
    )
