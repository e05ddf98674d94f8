"""maskcli probe: what it prints at every width, its exit codes, the files that it writes; and its Python twins."""

import json

import numpy as np
import pytest
import torch
from rich.cells import cell_len
from safetensors.numpy import load_file

import maskcli
from tests.cli.running import refused as refused_with
from tests.cli.running import run
from tests.documents import DECODER

ENCODER = '''
class Encoder(Decoder):
    """Each token sees all others, padding as well."""

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + layer(x, None)
        return x


def make_encoder():
    return Encoder().eval(), WORDS


def make_states():
    layer = nn.TransformerEncoderLayer(16, 2, batch_first=True).eval()
    return layer, {"src": torch.randn(3, 8, 16)}


def make_meta():
    return Encoder().to("meta"), WORDS


def make_random():
    return nn.Sequential(nn.Embedding(WORDS, WIDTH), nn.Dropout(0.5))


def make_text():
    return "a model"


def make_deaf():
    return nn.Sequential(nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)), WORDS
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("probe")
    (made / "decoder.py").write_text(DECODER)
    (made / "models.py").write_text(DECODER + ENCODER)
    return made


def probe(folder, *arguments, **settings):
    return run("probe", *arguments, cwd=folder, torch=True, **settings)


def refused(folder, *arguments):
    return refused_with("probe", *arguments, cwd=folder, torch=True)


WINDOW = ("decoder.py:make_model", "--expect", "sliding:4")


@pytest.mark.parametrize("columns", [60, 80, 120, 200, None])
def test_the_report_fits_the_terminal(folder, columns):
    settings = {} if columns is None else {"COLUMNS": str(columns)}
    text = probe(folder, *WINDOW, check=1, **settings).stdout
    # A command is one line, so that it can be copied.
    lines = [line for line in text.splitlines() if not line.startswith("  see: ")]
    assert max(map(cell_len, lines)) <= (columns or 200)
    words = " ".join(text.split())
    assert "MSK603 window-measured error decoder.py:make_model" in words
    assert "layers.0..1 right padding; left padding" in words
    assert "sliding:5 & padding" in words
    assert "36 more" in words


def test_a_table_where_it_fits_and_a_list_where_not(folder):
    row = "  right padding; left padding  sliding:5 & padding  sliding:4 & padding  36 more"
    assert row in probe(folder, *WINDOW, check=1, COLUMNS="84").stdout.splitlines()
    lines = probe(folder, *WINDOW, check=1, COLUMNS="60").stdout.splitlines()
    at = lines.index("  right padding; left padding")
    assert lines[at : at + 3] == [
        "  right padding; left padding",
        "    measured sliding:5 & padding",
        "    expected sliding:4 & padding (36 more)",
    ]


def test_exit_codes(folder):
    right = ("decoder.py:make_model", "--expect", "sliding:5")
    assert "nothing found: 2 modules in 2 runs" in probe(folder, *right, check=0).stdout
    probe(folder, *WINDOW, check=1)
    probe(folder, *WINDOW, "--exit-zero", check=0)
    probe(folder, *WINDOW, "--fail-on", "never", check=0)


def test_one_line_a_finding(folder):
    lines = probe(folder, *WINDOW, "--format", "concise", check=1).stdout.splitlines()
    assert lines[0].startswith("decoder.py:make_model: MSK603 window-measured error: queries see 5 keys: ")
    assert lines[0].endswith("(layers.0, layers.1; queries 4..24; keys 0..20)")
    assert lines[1].startswith("1 error: 2 modules in 2 runs, ")


def test_json_says_all_that_was_measured(folder, tmp_path):
    path = tmp_path / "found.json"
    assert probe(folder, *WINDOW, "-o", path, check=1).stdout == ""
    told = json.loads(path.read_text())
    assert told["mixing"] == ["layers.0", "layers.1"]
    assert {(each["module"], each["setting"], each["measured"], each["more"]) for each in told["layers"]} == {
        (f"layers.{at}", f"{side} padding", "sliding:5 & padding", 36)
        for at in range(2)
        for side in ("right", "left")
    }
    assert told["reach"]["derived"] == "sliding:9"
    assert all(each["agrees"] for each in told["compared"])
    assert [each["code"] for each in told["findings"]] == ["MSK603"]
    assert told["summary"] == {"error": 1, "warning": 0, "note": 0}


def test_measured_masks_are_kept_for_the_other_commands(folder, tmp_path):
    path = tmp_path / "measured.safetensors"
    told = probe(folder, *WINDOW, "-o", path, check=1).stdout
    assert "MSK603" in told, "the report still goes to standard output"
    kept = load_file(path)
    assert set(kept) == {f"layers.{at}{run}" for at in range(2) for run in ("", "@left-padding")}
    apart = np.arange(24)[:, None] - np.arange(24)
    assert all((mask == ((apart >= 0) & (apart <= 4))).all() for mask in kept.values())
    assert "  sliding:5" in run("inspect", path, check=0).stdout.splitlines()
    assert "20 of 576 cells" in run("diff", f"{path}:layers.0", "sliding:4", check=1).stdout
    run("diff", f"{path}:layers.1", "sliding:5", check=0)


def test_only_some_columns_of_long_texts_are_measured(folder):
    text = probe(folder, *WINDOW, "--length", "200", "--only", "masks", "--pad", "none", check=1).stdout
    assert "sliding:5, from 6 of 200 columns" in text
    text = probe(
        folder, *WINDOW, "--length", "30", "--columns", "boundary", "--only", "masks", check=1
    ).stdout
    assert "columns" in text


def test_padding_that_an_encoder_sees(folder):
    text = probe(folder, "models.py:make_encoder", "--expect", "full", "--format", "concise", check=1).stdout
    assert text.count("MSK") == 1
    assert "MSK602 padding-reached error: real tokens see padding" in text


def test_arguments_of_a_function_are_the_only_run(folder):
    text = probe(folder, "models.py:make_states", "--expect", "full", check=0).stdout
    assert "as given" in text
    assert "2 runs" not in text


def test_a_model_that_mixes_nothing(folder):
    assert "nothing found: " in probe(folder, "models.py:make_deaf", check=0).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("models.py:make_random",), "dropout is on in '1'"),
        (("models.py:make_text",), "returns str"),
        (("models.py",), "name the function"),
        (("models.py:make_nothing",), "make_nothing"),
        (("nowhere.py:make_model",), "nowhere.py"),
        ((*WINDOW, "--pad", "top"), "pad 'top' is not one of none, right, left, both"),
        ((*WINDOW, "--cache", "paged"), "'paged' is not one of dynamic, static, none"),
        ((*WINDOW, "--only", "heads"), "'heads' is not one of masks, cache, batch, equivalence"),
        ((*WINDOW, "--columns", "some"), "pass all or boundary"),
        ((*WINDOW, "--documents", "7,x"), "pass the lengths of two documents or more"),
        ((*WINDOW, "--length", "2"), "pass 6 or more"),
        ((*WINDOW, "--length", "10000000"), "10,000,000 tokens is too long; pass 32,768 at most"),
        ((*WINDOW, "--documents", "7,10000000"), "10,000,007 tokens is too long"),
        ((*WINDOW, "--dtype", "int8"), "dtype 'int8' is not one of float32, float64, float16, bfloat16"),
        ((*WINDOW, "--device", "nowhere"), "device 'nowhere' cannot be used"),
        ((*WINDOW, "--device", "meta"), "weights on the device meta"),
        (("models.py:make_meta",), "weights on the device meta"),
        ((*WINDOW, "--impl", "eager"), "--impl does nothing here: the function makes the model"),
        ((*WINDOW, "--random-weights"), "--random-weights does nothing here"),
        ((".", "--eval"), "--eval does nothing here: such a model is in eval() mode"),
        (("models.py:make_states", "--length", "30"), "length does nothing for 'models.py:make_states'"),
        (("models.py:make_states", "--pad", "left"), "pad does nothing"),
        (("decoder.py:make_model", "--expect", "slidng:4"), "sliding"),
        (
            ("http://localhost:1/v1", "--pad", "left"),
            "--pad does nothing here: a server shows nothing but its answers",
        ),
        (("http://localhost:1/v1", "--dtype", "bfloat16"), "--dtype does nothing here"),
        (("http://localhost:1/v1", "-o", "masks.safetensors"), "-o FILE.safetensors does nothing here"),
        ((*WINDOW, "--served", "tiny"), "--served does nothing here: it is for a server"),
    ],
)
def test_what_cannot_be_is_one_sentence(folder, arguments, said):
    assert said in refused(folder, *arguments)


def test_what_a_report_leaves_open_is_said(folder, tmp_path):
    def told(*arguments, code):
        return probe(folder, "decoder.py:make_model", *arguments, check=code).stdout

    assert "no mask was expected: --expect SPEC, such as causal, says which" in told(code=0)
    open_end = told("--expect", "sliding:4", code=1)
    assert open_end.endswith("\n-o measured.safetensors keeps the masks\n")
    kept = told("--expect", "sliding:4", "-o", tmp_path / "my masks.safetensors", code=1)
    assert "keeps the masks" not in kept
    assert "my masks.safetensors:layers.0'" in " ".join(kept.split())


@pytest.mark.parametrize(
    ("function", "arguments", "dtype"),
    [
        ("make_states", (), torch.float32),
        ("make_double", (), torch.float64),
        ("make_double", ("--dtype", "bfloat16"), torch.bfloat16),
        ("make_states", ("--dtype", "float64", "--device", "cpu"), torch.float64),
    ],
)
def test_a_model_of_ones_own_stays_as_it_is_unless_a_type_is_asked_for(tmp_path, function, arguments, dtype):
    seen = """
def make_states():
    layer = nn.TransformerEncoderLayer(16, 2, batch_first=True).eval()
    layer.register_forward_pre_hook(lambda *given: seen(given[-1]["src"].dtype), with_kwargs=True)
    return layer, {"src": torch.randn(3, 8, 16)}


def make_double():
    layer, arguments = make_states()
    return layer.double(), {name: states.double() for name, states in arguments.items()}


def seen(dtype):
    with open("seen", "a") as file:
        file.write(f"{dtype} ")
"""
    (tmp_path / "own.py").write_text("import torch\nfrom torch import nn\n" + seen)
    probe(tmp_path, f"own.py:{function}", *arguments, "--expect", "full", check=0)
    assert set((tmp_path / "seen").read_text().split()) == {str(dtype)}


def test_eval_is_called_when_it_is_asked_for(folder):
    probe(folder, "models.py:make_random", "--eval", check=0)


# In Python


class Cumulative(torch.nn.Module):
    """Each position is the mean of those up to it, and `ahead` further ones."""

    def __init__(self, ahead=0):
        super().__init__()
        self.ahead, self.project = ahead, torch.nn.Linear(8, 8)

    def forward(self, states):
        length = states.shape[1]
        seen = torch.ones(length, length).tril(self.ahead)
        return self.project(seen / seen.sum(1, keepdim=True) @ states)


@pytest.fixture
def states():
    return {"states": torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))}


def test_python_measures_what_the_command_does(states):
    report = maskcli.probe(Cumulative(1), states, expect="causal")
    (finding,) = report.findings
    assert (finding.code, finding.evidence["measured"]) == ("MSK601", "window:-1,1")
    assert maskcli.probe(Cumulative(), states, expect="causal").findings == ()


def test_an_assertion_says_which_module_sees_what(states):
    model = torch.nn.Sequential(Cumulative(), Cumulative(1))
    inputs = {"input": states["states"]}
    with pytest.raises(AssertionError, match=r"MSK601 future-reached error: .* off by one(.|\n)*in 1$"):
        maskcli.assert_reads_only(model, inputs, "causal")
    maskcli.assert_reads_only(model, inputs, "full")
    maskcli.assert_reads_only(torch.nn.Sequential(Cumulative()), inputs, "causal")


def test_reading_less_than_allowed_is_no_failure(states):
    class Own(torch.nn.Linear):
        """Sees itself and the token before."""

        def forward(self, states):
            return super().forward(states + torch.roll(states, 1, 1) * (torch.arange(6) > 0)[:, None])

    maskcli.assert_reads_only(Own(8, 8), states, "causal")
    maskcli.assert_reads_only(Own(8, 8), states, "sliding:4")
    with pytest.raises(AssertionError, match="MSK60"):
        maskcli.assert_reads_only(Own(8, 8), states, "sliding:1")


def test_unknown_options_are_refused(states):
    with pytest.raises(TypeError, match="no option 'pads'"):
        maskcli.probe(Cumulative(), states, pads="left")


def test_the_model_is_left_as_it_was(states):
    model = Cumulative()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    state = torch.random.get_rng_state()
    maskcli.probe(model, states, expect="causal")
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(values, model.state_dict()[name]) for name, values in before.items())
    assert model.training
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.long
@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"num_hidden_layers": 10**9}, "has 1,000,000,000 layers; 1,000 are probed at most"),
        (
            {"hidden_size": 2**17, "intermediate_size": 2**19, "num_hidden_layers": 96},
            "GiB of random weights",
        ),
    ],
)
def test_a_configuration_of_any_size_is_refused_before_memory_is_taken(tmp_path, sizes, sentence):
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert sentence in run("probe", tmp_path, check=2, torch=True).stderr


def test_code_that_a_folder_brings_is_not_run_and_not_asked_about(tmp_path):
    code = {"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of-its-own", **code}))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    done = run("probe", tmp_path, check=2, torch=True, stdin="y\n")
    assert "custom code" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_python_takes_models_alone():
    with pytest.raises(maskcli.MaskcliError, match="a model was expected, and this is of type str"):
        maskcli.probe("decoder.py:make_model")
