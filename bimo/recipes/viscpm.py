"""VisCPM-Paint (arXiv:2308.12038): hidden states of a bilingual language model, projected into Stable Diffusion 2.1."""

from dataclasses import replace

from bimo.core.recipe import Defaults, Published, Recipe, Stage
from bimo.models.text_encoders.language_model import Bridge, LanguageModel
from bimo.recipes.stable_diffusion import sd_v2_base
from bimo.training.objectives.denoise import Denoise

#: CPM-Bee's published sizes in the class of its predecessor CPM-Ant. The prompt is a JSON record.
cpm_bee_10b = LanguageModel(
    family="cpmant",
    width=4096,
    layers=48,
    heads=32,
    head=128,
    feed=10240,
    vocab=86583,
    positions=2048,
    config={"prompt_length": 0},
    template='{"caption": "{}", "objects": ""}',
    length=2048,
    pad="batch",
    bridge=Bridge(width=1024),
)

viscpm_paint = Recipe(
    name="viscpm-paint",
    title="VisCPM-Paint 中英双语文生图",
    paper="arXiv:2308.12038",
    source="published description",
    text_encoders=(cpm_bee_10b,),
    levels=(replace(sd_v2_base, sampler="ddpm"),),
    stages=(
        Stage(
            name="bridge",
            objective=Denoise(),
            level="image",
            train=("text.0.out.*", "text.0.norm.*"),
            size=(512, 512),
            note="The language model is frozen throughout. Published: what bridges is opened gradually. The order, "
            "rates and batches were not; these three stages are ours.",
        ),
        Stage(
            name="bridge and what attends to words",
            objective=Denoise(),
            level="image",
            train=("text.0.out.*", "text.0.norm.*", "image.denoiser.model.*attn2.*"),
            size=(512, 512),
        ),
        Stage(
            name="bridge and UNet",
            objective=Denoise(),
            level="image",
            train=("text.0.out.*", "text.0.norm.*", "image.denoiser.*"),
            size=(512, 512),
            caption_dropout=0.1,
            note="balance: LAION-2B, English alone; zhplus: and 20 M Chinese pairs and 120 M translated ones.",
        ),
    ),
    weights=Published(
        note="openbmb/VisCPM-Paint: one file, names below llm., unet. and trans_block.; the autoencoder is Stable "
        "Diffusion 2.1's. transformers has no class of CPM-Bee: its words' positions and the relations of a record's "
        "segments are its own, so the 10 B file does not fit this text encoder, and reading it lists what is missing.",
    ),
    request=Defaults(size=(512, 512), guidance=7.5, steps=50),
    note="Drawn four at a time, the best chosen by chinese-clip-vit-base-patch16; not for English prompts.",
)
