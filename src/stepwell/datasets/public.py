"""The public streams by name, with their original sources and the checksums of the files we have held."""

from __future__ import annotations

from stepwell.datasets.registry import Dataset, File, datasets

_JODIE = "Kumar, Zhang, Leskovec, Predicting Dynamic Embedding Trajectory in Temporal Interaction Networks, KDD 2019"
_MOTIFS = "Paranjape, Benson, Leskovec, Motifs in Temporal Networks, WSDM 2017"
_TRUST = "Kumar, Spezzano, Subrahmanian, Faloutsos, Edge Weight Prediction in Weighted Signed Networks, ICDM 2016"
_SNAP = "https://snap.stanford.edu"


def _jodie(name: str, summary: str, *files: File) -> Dataset:
    original = File(f"{name}.csv", url=f"http://snap.stanford.edu/jodie/{name}.csv", layout="jodie")
    return Dataset(
        f"jodie-{name}",
        summary,
        _JODIE,
        (*files, original),
        src=("user", "user"),
        dst=("item", "item"),
        label="state_label",
        features=("f*",),
    )


_ALL = (
    _jodie(
        "wikipedia",
        "Edits of 1,000 pages by 8,227 users in a month: 9,227 nodes, 157,474 events, 217 bans",
        File("interactions.parquet", "8019d59b918d20832dbb54da6b52b7d9ef3da0f9a737bb007fa4101b3cb93bb9"),
    ),
    _jodie("reddit", "Posts of 10,000 users in 984 subreddits in a month: 10,984 nodes, 672,447 events, 172 features"),
    _jodie("mooc", "Actions of 7,047 students on 97 course items: 7,144 nodes, 411,749 events, 4 features"),
    _jodie("lastfm", "Songs of 1,000 artists played by 980 users: 1,980 nodes, 1,293,103 events, no features"),
    Dataset(
        "collegemsg",
        "Private messages of students at UC Irvine in 193 days: 1,899 nodes, 59,835 events (UCI in the literature)",
        "Panzarasa, Opsahl, Carley, Patterns and dynamics of users' behavior and interaction, JASIST 2009",
        (
            File("interactions.parquet", "0e928659f42c0b7bf8f326a08b3182723b3baf7f610ae592d7e24ef70ad361b8"),
            File("CollegeMsg.txt.gz", url=f"{_SNAP}/data/CollegeMsg.txt.gz", layout="snap"),
        ),
    ),
    Dataset(
        "enron",
        "E-mails among 184 employees in 3 years: 125,235 events",
        "Poursafaei, Huang, Pelrine, Rabbany, Towards Better Evaluation for Dynamic Link Prediction, NeurIPS 2022",
        (
            File("ml_enron.csv", layout="csv"),
            File("enron.zip", url="https://zenodo.org/records/7213796/files/enron.zip", layout="zip"),
        ),
        src="u",
        dst="i",
    ),
    Dataset(
        "sx-mathoverflow",
        "Answers and comments on MathOverflow in 2,350 days: 24,818 nodes, 506,550 events of three kinds",
        _MOTIFS,
        (
            File("interactions.parquet", "f554c63d2a91d89d1ff1ecf53d0d5b84a6f418ef591cf7d061f6d98f0f513b63"),
            File("sx-mathoverflow.txt.gz", url=f"{_SNAP}/data/sx-mathoverflow.txt.gz", layout="snap"),
        ),
        event_type="kind",
    ),
    Dataset(
        "email-eu-core-temporal",
        "E-mails inside a European research institution in 803 days: 986 nodes, 332,334 events",
        _MOTIFS,
        (
            File("interactions.parquet", "de217acd7e47408f28bff88efcbe7e96980b8d042fe21a3ab5cecfe3b23812b1"),
            File("email-Eu-core-temporal.txt.gz", url=f"{_SNAP}/data/email-Eu-core-temporal.txt.gz", layout="snap"),
        ),
    ),
    Dataset(
        "digg-reply",
        "Replies among users of Digg, not in order of time: 30,398 nodes, 87,627 events",
        "De Choudhury, Sundaram, John, Seligmann, Social synchrony, CSE 2009; KONECT munmun_digg_reply",
        (File("interactions.parquet", "69bff0cda18808a926fdd507cb1ba12b9c147ae62a980d2f55d0650b700af1b1"),),
    ),
    Dataset(
        "bitcoin-otc",
        "Who trusts whom on Bitcoin OTC: 5,881 nodes, 35,592 ratings",
        _TRUST,
        (
            File("bitcoin_otc.parquet", "87f97525c84161f9f761a13b61c785c7854c08fdc0b497ac2455151413b98f06"),
            File("soc-sign-bitcoinotc.csv.gz", url=f"{_SNAP}/data/soc-sign-bitcoinotc.csv.gz", layout="ratings"),
        ),
        features=("rating",),
        unit="us",
        folder="bitcoin-trust",
    ),
    Dataset(
        "bitcoin-alpha",
        "Who trusts whom on Bitcoin Alpha: 3,783 nodes, 24,186 ratings",
        _TRUST,
        (
            File("bitcoin_alpha.parquet", "140597901a1003dd5c654264695577f2514ea08b1091a0222c80b911865fa1d9"),
            File("soc-sign-bitcoinalpha.csv.gz", url=f"{_SNAP}/data/soc-sign-bitcoinalpha.csv.gz", layout="ratings"),
        ),
        features=("rating",),
        unit="us",
        folder="bitcoin-trust",
    ),
)

for _dataset in _ALL:
    datasets.register(_dataset.name)(_dataset)
