"""Where data sets lie on the network: files, checksums, pages and licences, each from a public source that is named.

To add one: a `Remote` in `REMOTES`. Only checksums that its makers or another project publish.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """urls: of the same file, tried in order; none where only a browser gets it. md5: of the whole file. inside: an archive in the
    archive, unpacked too."""

    name: str
    md5: str
    urls: tuple[str, ...] = ()
    inside: str | None = None


@dataclass(frozen=True)
class Remote:
    """folder: in --data-dir, where its files go, and what is in archives. page: for people. licence: as the makers say it."""

    folder: str
    files: tuple[File, ...]
    page: str
    licence: str
    unpack: bool = False


def _mirrored(folders: tuple[str, ...], sums: dict[str, str]) -> tuple[File, ...]:
    return tuple(File(name, md5, tuple(f"{f}/{name}" for f in folders)) for name, md5 in sums.items())


_IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_MENDELEY = "https://data.mendeley.com/public-files/datasets"
_FIGSHARE = "https://ndownloader.figshare.com/files"

REMOTES: dict[str, Remote] = {
    # Addresses and checksums: torchvision's mnist.py; the second address: Google's mirror, as Keras' and others' loaders have it.
    "mnist": Remote(
        "MNIST/raw",
        _mirrored(
            (
                "https://ossci-datasets.s3.amazonaws.com/mnist",
                "https://storage.googleapis.com/cvdf-datasets/mnist",
            ),
            dict(
                zip(
                    _IDX,
                    (
                        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                        "d53e105ee54ea40749a09fcbcd1e9432",
                        "9fb629c4189551a2d022fa330f9573f3",
                        "ec29112dd5afa0611ce80d1b7f02629c",
                    ),
                    strict=True,
                )
            ),
        ),
        "http://yann.lecun.com/exdb/mnist/",
        "not stated by its makers; cite LeCun et al. 1998, doi 10.1109/5.726791",
    ),
    # The makers' README and torchvision's mnist.py.
    "fashionmnist": Remote(
        "FashionMNIST/raw",
        _mirrored(
            (
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
            ),
            dict(
                zip(
                    _IDX,
                    (
                        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                        "25c81989df183df01b3e8a0aad5dffbe",
                        "bef4ecab320f06d8554ea6380940ec79",
                        "bb300cfdad3c16e7a12a480ee83cd310",
                    ),
                    strict=True,
                )
            ),
        ),
        "https://github.com/zalandoresearch/fashion-mnist",
        "MIT",
    ),
    # The makers' page, which has the checksum.
    "cifar10": Remote(
        "",
        _mirrored(
            ("https://www.cs.toronto.edu/~kriz", "https://cave.cs.toronto.edu/kriz"),
            {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        ),
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "not stated by its makers; cite Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        unpack=True,
    ),
    # tonic's nmnist.py; the licence: the makers' page.
    "nmnist": Remote(
        "NMNIST",
        (
            File(
                "train.zip",
                "20959b8e626244a1b502305a9e6e2031",
                (f"{_MENDELEY}/468j46mzdv/files/39c25547-014b-4137-a934-9d29fa53c7a0/file_downloaded",),
            ),
            File(
                "test.zip",
                "69ca8762b2fe404d9b9bad1103e97832",
                (f"{_MENDELEY}/468j46mzdv/files/05a4d654-7e03-4c15-bdfa-9bb2bcbea494/file_downloaded",),
            ),
        ),
        "https://data.mendeley.com/datasets/468j46mzdv/1",
        "CC BY-SA 4.0; cite Orchard et al. 2015, doi 10.3389/fnins.2015.00437",
        unpack=True,
    ),
    # tonic's ncaltech101.py.
    "ncaltech101": Remote(
        "NCALTECH101",
        (
            File(
                "N-Caltech101-archive.zip",
                "66201824eabb0239c7ab992480b50ba3",
                (f"{_MENDELEY}/cy6cvx3ryv/files/36b5c52a-b49d-4853-addb-a836a8883e49/file_downloaded",),
                inside="Caltech101.zip",
            ),
        ),
        "https://data.mendeley.com/datasets/cy6cvx3ryv/1",
        "see the page; cite Orchard et al. 2015, doi 10.3389/fnins.2015.00437",
        unpack=True,
    ),
    # tonic's dvsgesture.py: cut into gestures, times in milliseconds.
    "dvsgesture": Remote(
        "DVSGesture",
        (
            File(
                "ibmGestureTrain.tar.gz",
                "3a8f0d4120a166bac7591f77409cb105",
                ("https://figshare.com/ndownloader/files/38022171",),
            ),
            File(
                "ibmGestureTest.tar.gz",
                "56070e45dadaa85fff82e0fbfbc06de5",
                ("https://figshare.com/ndownloader/files/38020584",),
            ),
        ),
        "https://research.ibm.com/interactive/dvsgesture/",
        "CC BY 4.0; cite Amir et al. 2017, doi 10.1109/CVPR.2017.781",
        unpack=True,
    ),
    # SpikingJelly's dvs128_gesture.py: a server that gives files to browsers alone.
    "dvsgesture-ibm": Remote(
        "",
        (File("DvsGesture.tar.gz", "8a5c71fb11e24e5ca5b11866ca6c00a1"),),
        "https://ibm.ent.box.com/s/3hiq58ww1pbbjrinh367ykfdf60xsfm8/folder/50167556794",
        "CC BY 4.0; cite Amir et al. 2017, doi 10.1109/CVPR.2017.781",
        unpack=True,
    ),
    # SpikingJelly's cifar10_dvs.py. The zip files are read as they are.
    "cifar10dvs": Remote(
        "CIFAR10DVS",
        tuple(
            File(f"{name}.zip", md5, (f"{_FIGSHARE}/{number}",))
            for name, number, md5 in (
                ("airplane", 7712788, "0afd5c4bf9ae06af762a77b180354fdd"),
                ("automobile", 7712791, "8438dfeba3bc970c94962d995b1b9bdd"),
                ("bird", 7712794, "a9c207c91c55b9dc2002dc21c684d785"),
                ("cat", 7712812, "52c63c677c2b15fa5146a8daf4d56687"),
                ("deer", 7712815, "b6bf21f6c04d21ba4e23fc3e36c8a4a3"),
                ("dog", 7712818, "f379ebdf6703d16e0a690782e62639c3"),
                ("frog", 7712842, "cad6ed91214b1c7388a5f6ee56d08803"),
                ("horse", 7712851, "e7cbbf77bec584ffbf913f00e682782a"),
                ("ship", 7712836, "41c7bd7d6b251be82557c6cce9a7d5c9"),
                ("truck", 7712839, "89f3922fd147d9aeff89e76a2b0b70a7"),
            )
        ),
        "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
        "see the page; cite Li et al. 2017, doi 10.3389/fnins.2017.00309",
    ),
    # tonic's hsd.py; mirror and licence: the makers' page.
    **{
        name: Remote(
            name.upper(),
            _mirrored(("https://zenkelab.org/datasets", "https://compneuro.net/datasets"), sums),
            "https://zenkelab.org/resources/spiking-heidelberg-datasets-shd/",
            "CC BY 4.0; cite Cramer et al. 2020, doi 10.1109/TNNLS.2020.3044364",
            unpack=True,
        )
        for name, sums in {
            "shd": {
                "shd_train.h5.zip": "f3252aeb598ac776c1b526422d90eecb",
                "shd_test.h5.zip": "1503a5064faa34311c398fb0a1ed0a6f",
            },
            "ssc": {
                "ssc_train.h5.zip": "d102be95e7144fcc0553d1f45ba94170",
                "ssc_test.h5.zip": "a35ff1e9cffdd02a20eb850c17c37748",
            },
        }.items()
    },
}
