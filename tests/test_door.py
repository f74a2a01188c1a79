"""The command line itself: what it imports, what it prints, how it leaves."""

from harness_ext.paths import ROOT

WITHOUT_A_MODEL = [
    (["--help"], 0),
    (["run", "--help"], 0),
    (["leaderboard", "-o", "."], 0),
    (["leaderboard", "-o", "absent"], 2),
    (["report", "-o", "absent"], 2),
    (["run", "--limit=-1"], 2),
    (["run", "--nonsense"], 2),
    (["run", "--pretrained=tinny"], 2),
    (["run", "--tasks=sst2_01", "--adapter=absent"], 2),
    (["ls"], 0),
    (["models"], 0),
    (["doctor", "--help"], 0),
    (["doctor", "--limit=-1"], 2),
]


def test_commands_that_need_no_model_do_not_import_torch(in_turn, tmp_path):
    """What one command imports stays imported, so none of them may."""
    (tmp_path / "published").symlink_to(ROOT / "results" / "published")
    ends = in_turn([argv for argv, _ in WITHOUT_A_MODEL])
    assert [end.code for end in ends] == [code for _, code in WITHOUT_A_MODEL]
    assert [argv for (argv, _), end in zip(WITHOUT_A_MODEL, ends, strict=True) if "torch" in end.modules] == []


def test_help_names_every_command(door):
    said = door("--help").stdout
    assert all(name in said for name in ("run", "ls", "validate", "leaderboard", "models", "doctor"))


def test_run_help_has_lm_evals_flags_and_ours(door):
    said = door("run", "--help").stdout
    assert all(flag in said for flag in ("--num_fewshot", "--gen_kwargs", "--pretrained", "--data_dir", "--force"))


def test_ls_lists_our_tasks(door):
    said = door("ls").stdout
    assert all(name in said for name in ("sst2_01 ", "sst2_01_choice", "sst2_01_mini", "sst2_01_think"))
    assert "sst2_01_mini" not in door("ls", "groups").stdout


def test_args_are_split_as_a_shell_would_but_never_run(door, tmp_path):
    said = door("run", f"--args=--limit -1 --output_path '{tmp_path}/a b $(touch {tmp_path}/c)'").error
    assert "LIMIT -1" in said
    assert not list(tmp_path.iterdir())


def test_args_with_an_open_quote_are_an_error(door):
    assert "cannot be split" in door("run", "--args='open").error
