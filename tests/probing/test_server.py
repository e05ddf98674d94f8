"""Servers of tiny models: healthy ones are silent, each bug is found by its test, nothing but ids is sent."""

import math

import pytest
import torch

from maskcli.errors import MaskcliError
from maskcli.probing.blackbox import GENERATED
from maskcli.probing.first_token import reaching_first
from maskcli.probing.server import COPIES, LENGTH, REPEATS, measure_server
from tests.probing.serving import VOCAB, Caching, Packing, Tiny, serving

DTYPES = [torch.float32, torch.bfloat16]
# GET /models, the first text, and the tests themselves; beside them the repeats and their copies.
FIRST, TESTS = 2, 13


def probed(model, layers=(), blink=0, dialect="echo", **options):
    with serving(model, dialect, blink) as (url, asked):
        return measure_server(url, layers=layers, **options), asked


def differing(behaviour):
    return {each.test for each in behaviour.compared if not each.agrees}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 5])
def test_healthy_servers_are_silent(dtype, window):
    expected = [f"sliding:{window}" if window else "causal"] * 2
    behaviour, asked = probed(Tiny(dtype, window), expected)
    assert differing(behaviour) == set()
    assert behaviour.unmeasured == ()
    assert behaviour.model == "tiny"
    assert behaviour.reach == (f"sliding:{2 * (window - 1) + 1}" if window else "causal", 0, 0)
    tests = {"S-prefix", "S-future", "S-decode", "S-cache", "S-neighbours", "S-longer"}
    assert {each.test for each in behaviour.compared} == tests | ({"S-window"} if window else set())
    assert len(asked) == FIRST + REPEATS + 1 + TESTS
    assert len(asked) == behaviour.forwards + 1
    assert sent(asked) <= 25 * LENGTH


def sent(asked):
    """How many tokens went out."""
    return sum(len(text) for _, _, body in asked if body for text in texts_of(body))


def texts_of(body):
    prompt = body["prompt"]
    return [prompt] if isinstance(prompt[0], int) else prompt


@pytest.mark.combinations
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("bug", "tests"),
    [
        ("full", {"S-future"}),
        ("padding", {"S-longer"}),
        ("other", {"S-longer"}),
        ("top-left", {"S-decode"}),
        ("positions", {"S-decode"}),
    ],
)
def test_each_bug_is_found_by_its_test_and_no_other(bug, tests, dtype):
    behaviour, _ = probed(Tiny(dtype, bug=bug), ["causal"] * 2)
    assert differing(behaviour) == tests


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_one_key_too_many_is_found_or_told(seed):
    """It moves one log-prob at each change, sometimes by less than what accuses; nothing else is accused in its place."""
    behaviour, _ = probed(Tiny(bug="next", seed=seed))
    told = any(each.startswith("log-probs before tokens that are changed") for each in behaviour.unmeasured)
    assert differing(behaviour) == (set() if told else {"S-future"})


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_window_one_too_wide_is_found_where_the_reach_ends(dtype):
    behaviour, _ = probed(Tiny(dtype, window=5, bug="window"), ["sliding:5"] * 2, told="config.json")
    assert differing(behaviour) == {"S-window"}
    window = behaviour.compared[-1]
    assert window.what == "log-probs behind place 9, up to which config.json lets the first token reach"
    assert window.cells == ((0, 10), (0, 11))
    assert behaviour.reach is None


@pytest.mark.parametrize(("window", "last"), [(5, 9), (4, 7), (None, LENGTH - 1)])
def test_without_an_expectation_the_reach_is_told(window, last):
    behaviour, _ = probed(Tiny(window=window))
    reach = behaviour.compared[-1]
    assert reach.test == "S-reach"
    assert f"behind place {last} of {LENGTH - 1}" in reach.what
    assert behaviour.reach is None


def test_a_reach_beyond_the_text_is_not_measured():
    behaviour, _ = probed(Tiny(window=50), ["sliding:50"] * 2)
    assert behaviour.unmeasured == ()
    assert any(f"reaches all {LENGTH} tokens" in each for each in behaviour.notes)


def test_layers_that_ids_tell_are_not_composed():
    behaviour, _ = probed(Tiny(), ["causal", "causal | spans:token_type_ids=1"])
    assert behaviour.compared[-1].test == "S-reach"


def test_layers_in_turns_reach_as_far_as_they_pass_on():
    def count(*specs):
        return reaching_first(specs, 32).sum()

    assert count("sliding:5", "sliding:3") == 1 + 4 + 2
    assert count("chunked:8", "chunked:8") == 8
    assert count("chunked:8", "sliding:2") == 9
    assert count("sliding:5", "causal") == 32


@pytest.mark.long
@pytest.mark.parametrize("blink", [0, 0.05], ids=["one by one", "batched"])
def test_texts_that_are_packed_without_their_borders_are_neighbours(blink):
    behaviour, _ = probed(Packing(), blink=blink)
    assert differing(behaviour) == {"S-neighbours"}
    settings = {each.setting for each in behaviour.compared if not each.agrees}
    assert settings == ({"in one request", "at the same time"} if blink else {"in one request"})
    assert any("padding" in each for each in behaviour.unmeasured)


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_server_that_batches_what_comes_at_once_is_silent(dtype):
    behaviour, _ = probed(Tiny(dtype), blink=0.05)
    assert differing(behaviour) == set()


def test_a_prefix_cache_is_compared_cold_and_warm():
    assert differing(probed(Caching())[0]) == set()
    assert differing(probed(Caching(bug="shifted"))[0]) == {"S-cache"}


@pytest.mark.long
@pytest.mark.parametrize("dialect", ["echo", "prompt", "words", "strict"])
def test_dialects_tell_the_same(dialect):
    behaviour, _ = probed(Tiny(bug="positions"), dialect=dialect)
    tells_ids = dialect in ("echo", "prompt")
    assert differing(behaviour) == ({"S-decode"} if tells_ids else set())
    assert bool(behaviour.unmeasured) != tells_ids
    behaviour, _ = probed(Tiny(bug="full"), dialect=dialect)
    assert "S-future" in differing(behaviour)


def test_answers_at_random_are_refused():
    with pytest.raises(MaskcliError, match=r"answers the same text differently each time .* dropout$"):
        probed(Tiny(bug="dropout"))


def test_a_server_that_does_not_read_is_no_healthy_one():
    class Deaf(Tiny):
        def complete(self, texts, count):
            return [
                (rows.roll(1, 1) * 0 + self.canned(rows), new) for rows, new in super().complete(texts, count)
            ]

        def canned(self, rows):
            places = torch.arange(rows.shape[0])[:, None] + torch.zeros(rows.shape[1])
            return -1 - (places * 0.7).sin()

    behaviour, _ = probed(Deaf())
    assert any("the first token changes no log-prob" in each for each in behaviour.unmeasured)

    class Even(Tiny):
        def complete(self, texts, count):
            return [(rows * 0 - math.log(VOCAB), new) for rows, new in super().complete(texts, count)]

    with pytest.raises(MaskcliError, match="gives every token the same log-prob"):
        probed(Even())


def test_a_change_that_is_neither_noise_nor_fault_is_told():
    class Slightly(Tiny):
        def complete(self, texts, count):
            found = super().complete(texts, count)
            moved = 0.03 * float(found[0][0].std()) * (len(set(map(len, texts))) > 1)
            return [(rows - moved, new) for rows, new in found]

    behaviour, _ = probed(Slightly())
    assert differing(behaviour) == set()
    assert [each.partition(":")[0] for each in behaviour.unmeasured] == [
        "a text alone and beside a longer one (in one request)"
    ]


def test_one_odd_answer_accuses_nobody():
    class Once(Tiny):
        asked = 0

        def complete(self, texts, count):
            self.asked += 1
            moved = float(self.asked == 10)
            return [(rows * (1 + moved), new) for rows, new in super().complete(texts, count)]

    behaviour, asked = probed(Once())
    assert differing(behaviour) == set()
    assert len(asked) > FIRST + REPEATS + 1 + TESTS


ASKED = {"model", "prompt", "max_tokens", "temperature", "logprobs", "echo"}
BEYOND = {"prompt_logprobs", "return_tokens_as_token_ids", "ignore_eos", "repetition_penalty"}


def test_nothing_but_ids_and_options_is_sent():
    key = "a-secret"
    behaviour, asked = probed(Tiny(), key=key, vocab=VOCAB)
    assert behaviour.compared
    for path, headers, body in asked:
        assert path in ("/v1/models", "/v1/completions")
        assert headers["Authorization"] == f"Bearer {key}"
        assert set(headers) <= {
            "Host",
            "Accept",
            "Accept-Encoding",
            "Connection",
            "Content-Type",
            "Content-Length",
            "Authorization",
        }
        if body is None:
            continue
        assert set(body) <= ASKED | BEYOND
        words = {name: value for name, value in body.items() if isinstance(value, str)}
        assert words == {"model": "tiny"}
        assert all(type(each) is int and 0 <= each < VOCAB for text in texts_of(body) for each in text)
        assert body["max_tokens"] <= GENERATED
    _, asked = probed(Tiny())
    assert not any("Authorization" in headers for _, headers, _ in asked)


def test_ids_come_from_the_answers_of_the_server():
    _, asked = probed(Tiny(), dialect="echo")
    ids = {each for _, _, body in asked[2:] for text in texts_of(body) for each in text}
    assert max(ids) > 32
    assert max(ids) < VOCAB
    # Tokens as words tell no ids, so that only those which the server took before are sent again.
    _, asked = probed(Tiny(), dialect="words")
    assert {each for _, _, body in asked[1:] for text in texts_of(body) for each in text} <= set(
        range(16, 32)
    )


@pytest.mark.long
def test_a_text_is_shorter_where_the_model_takes_less():
    _, asked = probed(Tiny(), length=10_000)
    longest = max(len(text) for _, _, body in asked if body for text in texts_of(body))
    assert 512 - 3 * GENERATED <= longest + GENERATED <= 512
    with pytest.raises(MaskcliError, match=r"texts of 4 tokens tell nothing .* --length of 12 or more"):
        probed(Tiny(), length=4)


def test_the_model_is_the_one_that_is_named_or_the_only_one():
    with serving(Tiny(), served="b", listed=("a", "b")) as (url, _):
        with pytest.raises(MaskcliError, match=r"serves 2 models \('a', 'b', ...\); choose one by --served$"):
            measure_server(url)
        assert measure_server(url, "b").model == "b"
        with pytest.raises(MaskcliError, match=r"has no model 'a'.*status 404"):
            measure_server(url, "a")
    with serving(Tiny(), listed=()) as (url, _), pytest.raises(MaskcliError, match="lists no models"):
        measure_server(url)


def test_a_busy_server_is_asked_again():
    with serving(Tiny(), refuse=lambda count: 429 if count % 5 == 0 else None) as (url, asked):
        assert differing(measure_server(url)) == set()
        assert len(asked) > FIRST + REPEATS + 1 + TESTS
    with serving(Tiny(), refuse=lambda count: 429) as (url, asked):
        with pytest.raises(MaskcliError, match="is asked too often; ask again later"):
            measure_server(url)
        assert len(asked) == 1 + 3


def test_copies_go_out_in_one_request():
    _, asked = probed(Tiny())
    assert (
        sum(
            len(texts_of(body)) == COPIES and len(set(map(tuple, texts_of(body)))) == 1
            for _, _, body in asked[1:]
        )
        == 1
    )
