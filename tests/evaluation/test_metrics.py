"""Metrics: against Gaussians worked out by hand, the formulas' own numbers, and other implementations."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from safetensors.torch import save_file

from bimo.core.errors import DataError, WeightsError
from bimo.evaluation.metrics import distribution, glyphs, similarity
from bimo.evaluation.metrics.inception import Inception, load_inception
from bimo.evaluation.metrics.resize import Resize, prepared


def gaussian(mean: list[float], deviations: list[float], n: int = 400, seed: int = 0) -> torch.Tensor:
    """Features whose sample mean and covariance are exactly those."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return torch.from_numpy(x * deviations + mean)


def test_fid_of_gaussians_by_hand() -> None:
    # |(3, 4)|^2 + (1 - 2)^2 + (3 - 1)^2 for diagonal covariances
    drawn, real = gaussian([3.0, 4.0], [1.0, 3.0]), gaussian([0.0, 0.0], [2.0, 1.0], seed=1)
    assert distribution.fid(drawn, real) == pytest.approx(25 + 1 + 4, abs=1e-6)
    assert distribution.fid(drawn, drawn) == pytest.approx(0, abs=1e-6)


def test_fid_is_that_of_its_formula_with_a_matrix_root() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((200, 16)) @ rng.standard_normal((16, 16)), rng.standard_normal((150, 16))
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
        np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root
    )
    assert distribution.fid(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("count", [9, 300])
def test_fid_of_roots_is_torchmetrics_fid(count: int) -> None:
    rng = np.random.default_rng(8)
    a, b = torch.from_numpy(rng.standard_normal((count, 16)) + 0.3), torch.from_numpy(rng.standard_normal((40, 16)))
    found = distribution._Moments.of(a).fid(distribution._Moments.of(b))
    assert found == pytest.approx(distribution.fid(a, b), rel=1e-3)


def test_kid_is_that_of_its_formula() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((60, 8)), rng.standard_normal((60, 8)) + 0.5

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / 8 + 1) ** 3

    n = 60
    aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)
    wanted = (aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)) / (n * (n - 1)) - 2 * ab.mean()
    found = distribution.kid(torch.from_numpy(a), torch.from_numpy(b))
    assert found.value == pytest.approx(wanted, rel=1e-3)  # every subset is the whole, in another order
    assert found.high - found.low == pytest.approx(0, abs=1e-6)


def test_inception_score_of_certain_classes_is_their_number() -> None:
    logits = torch.full((4000, 4), -50.0)
    logits[torch.arange(4000), torch.arange(4000) % 4] = 50.0
    assert distribution.inception_score(logits, splits=2).value == pytest.approx(4, abs=0.02)
    assert distribution.inception_score(torch.zeros(40, 4)).value == pytest.approx(1, abs=1e-6)


def test_fid_infinity_takes_the_bias_of_few_pictures_away() -> None:
    rng = np.random.default_rng(5)
    real = torch.from_numpy(rng.standard_normal((4000, 12)))
    drawn = torch.from_numpy(rng.standard_normal((300, 12)))
    few = distribution.fid(drawn, real)
    assert few > 0.1
    assert abs(distribution.fid_infinity(drawn, real)) < few / 3


def test_precision_and_recall_tell_what_is_missing_from_what_is_wrong() -> None:
    rng = np.random.default_rng(6)
    one, other = rng.standard_normal((100, 4)), rng.standard_normal((100, 4)) + 30
    both = torch.from_numpy(np.concatenate([one, other]))
    half = torch.from_numpy(rng.standard_normal((100, 4)))
    missing = distribution.precision_recall(half, both)
    assert missing.precision > 0.9
    assert missing.recall == pytest.approx(0.5, abs=0.06)
    assert distribution.precision_recall(both, half).precision == pytest.approx(0.5, abs=0.06)


def test_sets_that_cannot_be_compared_are_told() -> None:
    with pytest.raises(DataError, match="one width"):
        distribution.fid(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(DataError, match="at least 2"):
        distribution.fid(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(DataError, match="10 splits"):
        distribution.inception_score(torch.zeros(4, 3))


def test_intervals_hold_the_value() -> None:
    drawn, real = gaussian([1.0, 0.0], [1.0, 1.0]), gaussian([0.0, 0.0], [1.0, 1.0], seed=1)
    found = distribution.fid_interval(drawn, real, resamples=8)
    assert found.low <= found.value <= found.high
    assert found.high - found.low < 1


@pytest.fixture
def two_pixels() -> Image.Image:
    return Image.fromarray(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))


@pytest.mark.parametrize(
    ("how", "row"),
    [
        (Resize.pytorch_fid, [0, 0.25, 0.75, 1]),  # half-pixel centres
        (Resize.torch_fidelity, [0, 0.5, 1, 1]),  # TensorFlow 1: pixel i reads at i * old / new
        (Resize.torchmetrics, [0, 0.25, 0.75, 1]),  # no antialiasing where a picture is enlarged
        # cubic (a = -0.5) at 0.75: w(0.25) = 0.8671875 and w(0.75) = 0.2265625 of the two that there are
        (Resize.clean_fid, [0, 0.2265625 / 1.09375, 0.8671875 / 1.09375, 1]),
    ],
)
def test_resizes_by_hand(how: Resize, row: list[float], two_pixels: Image.Image) -> None:
    found = prepared(two_pixels, how, side=4)[0, 0]
    plain = (found + 1) / 2 if how is Resize.pytorch_fid else (found * 128 + 128) / 255
    assert plain.tolist() == pytest.approx(row, abs=2e-3)


def test_only_two_resizes_see_every_pixel_when_they_shrink() -> None:
    lines = np.zeros((8, 8, 3), np.uint8)
    lines[:, ::4] = 255
    image = Image.fromarray(lines)
    found = {how: prepared(image, how, side=2)[0, 0] for how in Resize}
    means = {how: float((x * (127.5 if how is Resize.pytorch_fid else 128)).mean() + 128) for how, x in found.items()}
    assert means[Resize.torch_fidelity] == pytest.approx(255, abs=1)  # reads pixel 0 and 4 alone
    assert means[Resize.pytorch_fid] == pytest.approx(0, abs=2)  # reads between 1 and 2
    assert 40 < means[Resize.clean_fid] < 90
    assert 40 < means[Resize.torchmetrics] < 90


@pytest.fixture(scope="module")
def network() -> Inception:
    torch.manual_seed(0)
    return Inception().eval()


@pytest.mark.slow
def test_inception_weights_are_read_by_the_published_names(network: Inception, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "inception.safetensors")
    again, digest = load_inception(tmp_path / "inception.safetensors")
    x = torch.rand(1, 3, 299, 299) * 2 - 1
    with torch.inference_mode():
        features, logits = again(x)
        assert torch.equal(features, network(x)[0])
    assert features.shape == (1, 2048)
    assert logits.shape == (1, 1008)
    assert len(digest) == 64
    with pytest.raises(WeightsError, match="expected one that begins with 6726825d"):
        load_inception(tmp_path / "inception.safetensors", "6726825d")


def test_inception_weights_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights-inception-2015-12-05-6726825d\.pth.*--inception"):
        load_inception(tmp_path / "none.pth")
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no Inception-v3 of 2015-12-05"):
        load_inception(tmp_path / "other.safetensors")


@pytest.mark.slow
def test_inception_is_torch_fidelitys(network: Inception, tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save(network.state_dict(), tmp_path / "weights.pth")
    names = ["2048", "logits_unbiased"]
    theirs = FeatureExtractorInceptionV3("ours", names, feature_extractor_weights_path=str(tmp_path / "weights.pth"))
    picture = torch.randint(0, 256, (1, 3, 80, 120), dtype=torch.uint8)
    wanted = theirs(picture)
    image = Image.fromarray(picture[0].permute(1, 2, 0).numpy())
    with torch.inference_mode():
        found = network(prepared(image, Resize.torch_fidelity)[None])
    for mine, other in zip(found, wanted, strict=True):
        assert torch.allclose(mine, other, rtol=1e-3, atol=1e-3)


def test_text_by_the_benchmark_s_own_example() -> None:
    """The three pictures that WeGenBench publishes beside its scorer."""
    email = glyphs.glyphs(["Maintenance Report"], ["Maintenance Report", "O", "E"])
    assert email.sentences == 1
    assert email.similarity == pytest.approx(1 - 2 / 19)
    assert email.f1 == pytest.approx(2 * 17 / (17 + 19))
    nothing = glyphs.glyphs(["万圣节快乐"], [])
    assert (nothing.similarity, nothing.sentences, nothing.f1, nothing.edits) == (0, 0, 0, 5)
    book = glyphs.glyphs(["book"], ["boek"])
    assert (book.similarity, book.sentences, book.f1) == (0.75, 0, 0.75)


def test_order_is_seen_by_the_edit_distance_alone() -> None:
    found = glyphs.glyphs(["上海自来水"], ["水来自海上"])
    assert found.characters == 1
    assert found.similarity < 0.5
    lines = glyphs.glyphs(["前方学校", "减速慢行"], ["减速慢行", "前方学校"])
    assert (lines.characters, lines.similarity, lines.sentences, lines.exact) == (1, 1, 1, False)


def test_oneig_by_hand() -> None:
    right, half = glyphs.glyphs(["面馆"], ["面馆"]), glyphs.glyphs(["茶馆"], ["面馆"])
    # ED = (0 + 1) / 2, CR = 1 / 2, WAC = (2 + 1) / 4
    assert glyphs.oneig([right, half]) == pytest.approx(1 - 0.5 * 0.5 * 0.25 / 50)
    far = glyphs.glyphs(["字" * 80], ["书" * 80])
    assert glyphs.oneig([far]) == 0  # the distance counts 50 at most
    with pytest.raises(ValueError, match="no text"):
        glyphs.glyphs([" "], ["字"])


def test_oneig_counts_words_where_no_chinese_is_wanted_and_no_marks() -> None:
    shop = glyphs.glyphs(["茶馆，欢迎！", "24小时"], ["茶馆欢迎", "24", "小时"])
    assert (shop.edits, shop.matched, shop.wanted, shop.exact) == (0, 8, 8, False)
    sign = glyphs.glyphs(["Fresh tea,", "every day."], ["Fresh", "tea every bay"])
    assert (sign.edits, sign.matched, sign.wanted) == (1, 3, 4)
    assert glyphs.oneig([sign], "en") == pytest.approx(1 - 1 * 1 * 0.25 / 100)


def test_clip_r_asks_for_the_own_text_among_a_hundred() -> None:
    eye = np.eye(6, dtype=np.float32)
    assert similarity.clip_r(eye, eye, list("abcdef")) == [True] * 6
    turned = np.roll(eye, 1, axis=0)
    assert similarity.clip_r(turned, eye, list("abcdef")) == [False] * 6
    # Two pictures of one prompt do not compete.
    assert similarity.clip_r(eye[[0, 0, 1]], eye[[0, 0, 1]], ["a", "a", "b"]) == [True] * 3
    assert similarity.own_similarity(eye, turned) == [0] * 6


def test_variety_is_between_pictures_of_one_prompt() -> None:
    vectors = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1]], np.float32)
    assert similarity.spread(vectors, ["a", "a", "b", "b", "c"]) == {"a": 1.0, "b": 0.0}


def test_near_copies_are_found_after_a_change_of_size() -> None:
    rng = np.random.default_rng(1)

    def picture() -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((90, 90), Image.Resampling.BICUBIC)

    known = [picture() for _ in range(5)]
    drawn = [picture(), known[3].resize((64, 64))]
    found = similarity.near_copies(similarity.perceptual_hashes(drawn), similarity.perceptual_hashes(known))
    assert found == {1: 3}
    assert similarity.near_copies(np.zeros(0, np.uint64), np.zeros(0, np.uint64)) == {}
