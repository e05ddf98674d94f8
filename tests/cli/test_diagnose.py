import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.cli.running import DATA, read, refused, run
from tests.diagnostics.attention import causal, layers, padding

SICK, HEALTHY = DATA / "minilm_attn_nomask.safetensors", DATA / "minilm_attn.safetensors"


def test_the_healthy_capture_is_exit_0():
    done = run("diagnose", HEALTHY, check=0)
    assert done.stdout.startswith("nothing found in 9 tensors of 1 file\n")
    assert read("diagnose", HEALTHY)["findings"] == []


def test_the_sick_capture_is_exit_1_and_says_why():
    found = read("diagnose", SICK, check=1)
    assert found["schema_version"] == 1
    (finding,) = found["findings"]
    assert (finding["code"], finding["name"], finding["severity"]) == ("MSK202", "padding-attended", "error")
    assert finding["tensors"] == [f"attentions.{n}" for n in range(6)]
    assert finding["where"] == {"batch": [0, 1], "heads": None, "queries": [[0, 12]], "keys": [[8, 26]]}
    assert [(place["batch"], place["keys"]) for place in finding["places"]] == [
        ([0], [[12, 26]]),
        ([1], [[8, 26]]),
    ]
    assert found["summary"] == {"error": 1, "warning": 0, "note": 0, "files": 1, "tensors": 9}
    assert {
        "code": "MSK203",
        "name": "future-attended",
        "file": str(SICK),
        "needs": ["--expect causal (or a causal mask)"],
        "options": ["--expect causal"],
    } in found["skipped"]
    text = run("diagnose", SICK, COLUMNS="60", check=1).stdout
    assert text.startswith("MSK202 padding-attended  error")
    assert max(map(len, text.splitlines())) <= 60 or all(
        " " not in line.strip() or line.startswith("  see:") for line in text.splitlines() if len(line) > 60
    )


def test_several_files_and_the_threshold(tmp_path):
    found = read("diagnose", HEALTHY, SICK, check=1)
    assert found["summary"]["files"] == 2
    run("diagnose", SICK, "--fail-on", "never", check=0)
    real = padding((2, 2, 8, 8), "left")
    mask = torch.from_numpy(np.where(causal((2, 2, 8, 8)) & real[:, None, None], 0, -np.inf))
    save_file({"attn_mask": mask}, tmp_path / "note.safetensors")
    run("diagnose", tmp_path / "note.safetensors", check=0)
    run("diagnose", tmp_path / "note.safetensors", "--fail-on", "note", check=1)


def test_what_was_meant(tmp_path):
    shape = (1, 2, 8, 8)
    save_file(layers(shape, np.ones(shape, bool)), tmp_path / "a.safetensors")
    assert read("diagnose", tmp_path / "a.safetensors")["findings"] == []
    found = read("diagnose", tmp_path / "a.safetensors", "--expect", "causal", check=1)["findings"]
    assert [finding["code"] for finding in found] == ["MSK203"]
    only = read("diagnose", tmp_path / "a.safetensors", "--expect", "attentions.1=causal", check=1)[
        "findings"
    ]
    assert only[0]["tensors"] == ["attentions.1"]
    save_file(layers(shape, np.ones(shape, bool)), tmp_path / "b.safetensors", {"maskcli.expect": "causal"})
    assert read("diagnose", tmp_path / "b.safetensors", check=1)["findings"][0]["code"] == "MSK203"
    assert read("diagnose", tmp_path / "b.safetensors", "--expect", "full")["findings"] == []


def test_metadata_never_runs_code(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')\ndef f(b, h, q, k): return q >= k\n")
    shape = (1, 2, 8, 8)
    save_file(
        layers(shape, causal(shape)), tmp_path / "a.safetensors", {"maskcli.expect": f"{tmp_path}/evil.py:f"}
    )
    assert "only the command line may name files" in refused("diagnose", tmp_path / "a.safetensors")


def test_roles_by_hand(tmp_path):
    shape = (1, 2, 8, 8)
    np.save(tmp_path / "w.npy", layers(shape, np.ones(shape, bool))["attentions.0"].numpy())
    np.save(tmp_path / "m.npy", causal(shape))
    found = read(
        "diagnose", tmp_path / "w.npy", "--role", f"weights={tmp_path}/w.npy", "--role", f"mask={tmp_path}/m.npy", check=1
    )["findings"]  # fmt: skip
    assert [finding["code"] for finding in found] == ["MSK203"]
    assert "expected ROLE=FILE" in refused("diagnose", tmp_path / "w.npy", "--role", "wieghts=x.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_format_and_type(tmp_path, suffix, dtype):
    shape = (2, 2, 9, 9)
    real = padding(shape, "right")
    arrays = {name: array.to(dtype) for name, array in layers(shape, np.ones(shape, bool)).items()}
    arrays["attention_mask"] = torch.from_numpy(real.astype(np.int64))
    path = tmp_path / f"dump{suffix}"
    if suffix == ".safetensors":
        save_file(arrays, path)
    elif suffix == ".pt":
        torch.save(
            {
                "attentions": (arrays["attentions.0"], arrays["attentions.1"]),
                "attention_mask": arrays["attention_mask"],
            },
            path,
        )
    elif dtype is torch.bfloat16:
        return
    elif suffix == ".npz":
        np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    else:
        np.save(path, arrays["attentions.0"].numpy())
        np.save(tmp_path / "attention_mask.npy", real.astype(np.int64))
        found = read("diagnose", path, "--role", f"padding_mask={tmp_path}/attention_mask.npy", check=1)
        assert [finding["code"] for finding in found["findings"]] == ["MSK202"]
        return
    assert [finding["code"] for finding in read("diagnose", path, check=1)["findings"]] == ["MSK202"]


def test_token_text_where_a_tokenizer_is_known(tmp_path):
    from tokenizers import Tokenizer, models

    words = {word: at for at, word in enumerate(["[PAD]", "[UNK]", *(f"w{n}" for n in range(2, 20000))])}
    Tokenizer(models.WordLevel(words, "[UNK]")).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"})
    )
    (finding,) = read("diagnose", SICK, "--tokenizer", tmp_path, check=1)["findings"]
    assert finding["tokens"] == ["[PAD]", "[PAD]", "[PAD]"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.safetensors"], "does not exist"),
        ([str(SICK), "--expect", "casual"], "did you mean 'causal'"),
        ([str(SICK), "--expect", "causal & documents"], "save position_ids, segment_ids or cu_seqlens"),
        ([str(SICK), "--expect", "layer9*=full"], "matches no attention map or mask; there are attentions.0"),
        ([str(SICK), "--past", "99999999999999999999"], "--past"),
        ([str(SICK), "--from", "torch"], "is not a convention"),
        ([str(SICK) + ":attention_mask_"], "did you mean 'attention_mask'"),
        ([], "FILE"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence):
    assert sentence in refused("diagnose", *arguments)


def test_a_file_without_anything_to_check(tmp_path):
    save_file({"model.embed.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    assert "nothing to check" in refused("diagnose", tmp_path / "model.safetensors")


def test_results_go_to_a_file_whole(tmp_path):
    run("diagnose", SICK, "-o", tmp_path / "found.json", check=1)
    assert json.loads((tmp_path / "found.json").read_text())["findings"]
    run("diagnose", SICK, "-o", tmp_path / "found.txt", check=1)
    assert (tmp_path / "found.txt").read_text().startswith("MSK202")


def test_rules_are_explained():
    every = read("rule", "--all")["rules"]
    assert [rule["code"] for rule in every] == sorted(rule["code"] for rule in every)
    for rule in every:
        for word in ("In code:", "Fix:"):
            assert word in rule["text"], rule["code"]
    assert read("rule", "inverted-polarity")["code"] == "MSK201"
    assert run("rule", "msk201", check=0).stdout.startswith("MSK201 inverted-polarity  error")
    assert "did you mean" in refused("rule", "inverted-polarty")
    assert len(run("rule", "--all", check=0).stdout.splitlines()) == len(every)
    of_masks = [rule for rule in every if rule["code"].startswith("MSK1")]
    assert read("rule", "msk1")["rules"] == of_masks
    assert len(run("rule", "MSK1", check=0).stdout.splitlines()) == len(of_masks)
    assert run("rule", "MSK", check=0).stdout == run("rule", "--all", check=0).stdout
    assert "there is no rule 'MSK9'" in refused("rule", "MSK9")
    refused("rule")


def test_nan_of_an_unknown_tensor_is_said(tmp_path):
    values = np.random.default_rng(0).normal(size=(12, 12))
    np.save(tmp_path / "fine.npy", values)
    values[3:5] = values[9, 2] = np.nan
    np.save(tmp_path / "a.npy", values)
    told = refused("diagnose", tmp_path / "a.npy")
    assert "a holds NaN in rows 3..5, 9 of 12, whose cause rules name" in told
    assert "--role weights=FILE:TENSOR" in told
    assert "NaN" not in refused("diagnose", tmp_path / "fine.npy")
    run("diagnose", tmp_path / "a.npy", "--role", f"weights={tmp_path}/a.npy", check=1)
