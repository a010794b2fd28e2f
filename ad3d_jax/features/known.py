"""Public sets of weights: where the hub has them and what tells them from others."""

from typing import NamedTuple


class Known(NamedTuple):
    """A set of weights that others of the same names and shapes can be taken for.

    Digests are SHA-256 in hexadecimal digits.
    """

    source: str  # the set's name, as timm tags it
    revision: str = "main"  # of the repository
    sha256: str = ""  # of model.safetensors there; "" = not known here
    torch: tuple[str, ...] = ()  # first 8 digits, of torch files with the same tensors
    tensors: tuple[str, ...] = ()  # `provenance.digest` of the tensors, or of a part


# By the names of repositories. The first digits of torch files stand in the files' own
# names; sets with several hold the same tensors. All are of ImageNet-1k, but for those
# of ImageNet-21k (in21k; before ImageNet-1k if ft_in1k follows) and lvd142m.
KNOWN = {
    "timm/resnet18.tv_in1k": Known(  # torchvision IMAGENET1K_V1
        "tv_in1k",
        "bbd144b3e5565108aad885f145491d11bc6ce807",
        "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
        ("f37072fd", "5c106cde"),
        (
            "a89f23178db0bb4852d4cd1e37bd052e532328058d098392307023c11fa688bb",
        ),  # conv1 to layer3, folded
    ),
    "timm/resnet18.a1_in1k": Known(
        "a1_in1k",
        "491b427b45c94c7fb0e78b5474cc919aff584bbf",
        "80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612",
        ("d63eafa0",),
    ),
    "timm/resnet18.a3_in1k": Known("a3_in1k", torch=("40c531c8",)),
    "timm/resnet18.gluon_in1k": Known("gluon_in1k", torch=("0757602b",)),
    "timm/resnet50.tv_in1k": Known(  # torchvision IMAGENET1K_V1
        "tv_in1k",
        "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
        ("0676ba61", "19c8e357"),
    ),
    "timm/resnet50.tv2_in1k": Known("tv2_in1k", torch=("11ad3fa6",)),
    "timm/resnet50.a1_in1k": Known(
        "a1_in1k",
        "767268603ca0cb0bfe326fa87277f19c419566ef",
        "773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb",
        ("14fe96d1",),
    ),
    "timm/resnet50.a2_in1k": Known("a2_in1k", torch=("a2746f79",)),
    "timm/resnet50.a3_in1k": Known("a3_in1k", torch=("59cae1ef",)),
    "timm/resnet50.am_in1k": Known("am_in1k", torch=("6c502b37",)),
    "timm/resnet50.gluon_in1k": Known("gluon_in1k", torch=("0ebe02e2",)),
    "timm/wide_resnet50_2.tv_in1k": Known(  # torchvision IMAGENET1K_V1
        "tv_in1k",
        "343c5fa59ca8a131e0cdf42144a641b36a0387c2",
        "df6fb6c4824769769de18e14088475fd6ee94236849aa4e5d8022ba9d9a9a16c",
        ("95faca4d",),
    ),
    "timm/wide_resnet50_2.tv2_in1k": Known("tv2_in1k", torch=("9ba9bcbe",)),
    "timm/wide_resnet50_2.racm_in1k": Known(
        "racm_in1k",
        "30f73aceaaa1911830a9795b83ab1908dba18719",
        "03b71d65fb2c73bb0de079a1781009f27a782ec481d2f64ab3bde9b1cdec3000",
        ("8234f177",),
    ),
    "timm/vit_base_patch8_224.dino": Known("dino"),
    "timm/vit_small_patch8_224.dino": Known("dino"),
    "timm/vit_base_patch8_224.augreg_in21k": Known("augreg_in21k"),
    "timm/vit_base_patch8_224.augreg_in21k_ft_in1k": Known("augreg_in21k_ft_in1k"),
    "timm/vit_base_patch8_224.augreg2_in21k_ft_in1k": Known("augreg2_in21k_ft_in1k"),
    "timm/vit_base_patch14_reg4_dinov2.lvd142m": Known("lvd142m"),
    "timm/vit_small_patch14_reg4_dinov2.lvd142m": Known("lvd142m"),
}
SOURCES = tuple(sorted({known.source for known in KNOWN.values()}))
