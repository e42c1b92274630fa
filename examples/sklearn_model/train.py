"""Fit a scaler and a regressor to scikit-learn's diabetes data; save each in a file of its own."""

from pathlib import Path

import skops.io
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

HERE = Path(__file__).parent


def main():
    patients, progression = load_diabetes(return_X_y=True, scaled=False)
    seen, unseen, seen_progression, unseen_progression = train_test_split(
        patients, progression, test_size=0.25, random_state=0
    )
    scaler = StandardScaler().fit(seen)
    # C was chosen by cross-validation on the training part.
    regressor = SVR(C=30).fit(scaler.transform(seen), seen_progression)

    skops.io.dump(scaler, HERE / "scaler.skops")
    skops.io.dump(regressor, HERE / "regressor.skops")
    score = regressor.score(scaler.transform(unseen), unseen_progression)
    print(f"held-out R2: {score:.3f}")


if __name__ == "__main__":
    main()
