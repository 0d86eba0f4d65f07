"""Writes the embedded Japanese Vowels data from an aeon or sktime wheel.

Both projects ship the data of UCI entry 128 as two text files. Download one of the wheels, then
run:

    pip download --no-deps aeon==1.6.0
    python scripts/make_japanese_vowels.py aeon-1.6.0-py3-none-any.whl

The same wheel always gives the same two files in src/lapse/compare/datasets.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from lapse.compare.data import load

TARGET = Path(__file__).resolve().parent.parent / "src" / "lapse" / "compare" / "datasets"
MEMBERS = {
    "JapaneseVowels_TRAIN.ts": "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
    "JapaneseVowels_TEST.ts": "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
}
ABOUT = {
    "title": "Japanese Vowels",
    "creators": ["Mineichi Kudo", "Jun Toyama", "Masaru Shimbo"],
    "source": "Japanese Vowels, UCI Machine Learning Repository (entry 128)",
    "doi": "10.24432/C5NS47",
    "url": "https://archive.ics.uci.edu/dataset/128/japanese+vowels",
    "licence": "CC BY 4.0",
    "licence_url": "https://creativecommons.org/licenses/by/4.0/",
    "citation": (
        "M. Kudo, J. Toyama and M. Shimbo (1999). Multidimensional curve classification using "
        "passing-through regions. Pattern Recognition Letters 20(11-13), 1103-1111."
    ),
    "contents": (
        "640 utterances of the Japanese vowels /ae/ by nine male speakers, 7 to 29 frames of 12 "
        "LPC cepstrum coefficients each; the class is the speaker; 270 to train on, 370 to test on."
    ),
    "changes": (
        "Format only: the values of the two .ts files named under taken_from, rounded to float32 "
        "and stored in one compressed NumPy archive."
    ),
    "features": [f"LPC cepstrum coefficient {i}" for i in range(1, 13)],
}


def main() -> None:
    """Checks the wheel's two files, converts them, and writes the archive and its description."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    wheel: Path = parser.parse_args().wheel

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        package = wheel.name.split("-")[0]
        for name, sha256 in MEMBERS.items():
            content = archive.read(f"{package}/datasets/data/JapaneseVowels/{name}")
            if hashlib.sha256(content).hexdigest() != sha256:
                raise SystemExit(f"{name} in {wheel} is not the expected file")
            Path(folder, name).write_bytes(content)
        data = load(Path(folder, "JapaneseVowels_TRAIN.ts"))

    TARGET.mkdir(parents=True, exist_ok=True)
    stored = TARGET / "japanese_vowels.npz"
    np.savez_compressed(
        stored,
        x=data.x[np.arange(data.x.shape[1]) < data.lengths[:, None]],
        lengths=data.lengths,
        labels=data.labels,
        classes=np.array(data.classes),
        test=data.test,
    )
    about = {
        "file": stored.name,
        "sha256": hashlib.sha256(stored.read_bytes()).hexdigest(),
        **ABOUT,
        "taken_from": {
            "wheel": wheel.name,
            "package": package,
            "version": wheel.name.split("-")[1],
            "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
            "members": MEMBERS,
        },
    }
    text = json.dumps({"japanese_vowels": about}, indent=2)
    (TARGET / "DATASETS.json").write_text(text + "\n", encoding="utf-8")
    print(f"{stored.name}: {stored.stat().st_size} bytes, sha256 {about['sha256']}")


if __name__ == "__main__":
    main()
