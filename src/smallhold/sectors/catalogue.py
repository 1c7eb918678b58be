"""The data sets that this project knows: what they show, under which licence, where they come from.

Facts only, no rows. A source is the public repository and the commit whose files were looked at; the licence is
what was found for the data themselves, with a remark where the evidence is weak.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Privacy(StrEnum):
    """Whom a row is about, from the least to the most restricted; decides where it may be sent.

    `PUBLIC` is openly published text or data that is nobody's record; anybody may read it where it came from.
    """

    PUBLIC = "public"
    CUSTOMER = "customer"
    PATIENT = "patient"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDataSet:
    """One data set.

    Attributes:
        name: Name of its folder.
        what: What it holds and by what it is split.
        licence: Licence of the data.
        sources: Where the files come from: repository, commit, path.
        row: One line of its files, as `*.jsonl` or `*.jsonl.zst`; or the columns of `*.csv`.
        may_ship_weights: Whether weights trained on it may be committed and shipped.
        privacy: Whom its rows are about; what is not known is taken for a patient's.
    """

    name: str
    what: str
    licence: str
    sources: tuple[str, ...]
    row: str
    may_ship_weights: bool = False
    privacy: Privacy = Privacy.PATIENT


def _github(repository: str, commit: str, path: str) -> str:
    return f"https://github.com/{repository} at {commit}, {path}"


_OPENSTAX = "CC BY 4.0 at these commits; later commits of some books are CC BY-NC-SA"
_OPENSTAX_ROW = '{"id","book","title","text","licence","source"}, from modules/*/index.cnxml'
_BOOK_ROW = '{"id","book","language","text"}'
_POLYAI = ("PolyAI-LDN/task-specific-datasets", "57ec275d8078af65b7731c2a98be812d844a6d6b")
_PHYSIONET_2012_ROW = (
    '{"record_id","age","sex","height_cm","icu_type","saps1",'
    '"died_in_hospital","events":[[minute,parameter,value],...]}'
)

KNOWN: tuple[KnownDataSet, ...] = (
    KnownDataSet(
        name="aci_bench",
        what="doctor-patient encounters with notes; split by encounter",
        licence="CC BY 4.0",
        sources=(_github("wyim/aci-bench", "b909b2bb9cf1d19de08df15cddde7bd0179665e4", "data/challenge_data/*.csv"),),
        row='{"dataset","encounter_id","dialogue","note"}',
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="banking77",
        what="customer-support questions of a bank, 77 intents",
        licence="CC BY 4.0",
        sources=(_github(*_POLYAI, "banking_data/{train,test}.csv"),),
        row='{"text","intent","upstream_split"}',
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="eicu_demo_multihospital",
        what="ICU stays of 186 hospitals with vital signs, diagnoses and treatments; split by patient",
        licence="ODbL 1.0 (eICU Collaborative Research Database Demo v2.0, the open demo)",
        sources=(_github("eth-mds/eicu-demo", "6666c2b89714101f93b49c644ca95966182cd157", "inst/extdata/*.fst"),),
        row='{"stay_id","hospital_id","region","age","sex","unit","aps_first24h","vitals","diagnoses",'
        '"treatments","medications","infusions","hospital_status"}',
        may_ship_weights=True,
    ),
    KnownDataSet(
        name="french_classics",
        what="French prose of 1840-1920 in passages of about 6,000 characters; split by book",
        licence="public domain; please cite French Novel Corpus (ELTeC-fra) v1.0.1, 2021, doi 10.5281/zenodo.4662433",
        sources=(_github("COST-ELTeC/ELTeC-fra", "83f0a43fdb967cd1db646027a1a237307e4924a1", "plain1/*.txt"),),
        row=_BOOK_ROW,
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="french_medmcqa",
        what="French pharmacy examination questions with five options",
        licence="Apache-2.0",
        sources=(
            _github(
                "qanastek/FrenchMedMCQA", "4e36a4055245feec3218573c9f6bb1a9ecb1756b", "corpus/{train,dev,test}.json"
            ),
        ),
        row='{"id","question","answers","correct_answers","subject_name","type","nbr_correct_answers","upstream_split"}',
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="heart_disease_4_hospitals",
        what="heart disease yes or no at four hospitals, one file each: a small federation",
        licence="CC BY 4.0 (UCI Machine Learning Repository, id 45)",
        sources=(
            _github(
                "GaTech-CS7641-A-Fall2020-Team7/public-dataset",
                "15c2f124f1d557fb4853d19cf4e945014445c66a",
                "processed.{cleveland,hungarian,switzerland,va}.data",
            ),
        ),
        row='{"id","hospital","age","sex","cp",...,"num","disease"}',
    ),
    KnownDataSet(
        name="medec",
        what="clinical vignettes with one injected error or none",
        licence="CC BY 4.0",
        sources=(
            _github(
                "abachaa/MEDEC",
                "70268d24e3ce0cd6d0e099ff7bfd4966f2bbcc28",
                "MEDEC-MS/*ValidationSet*.csv, *TestSet*.csv",
            ),
        ),
        row='{"Text ID","Text","Sentences","Error Flag","Error Type","Error Sentence ID","Error Sentence",'
        '"Corrected Sentence","Corrected Text","upstream_split"}',
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="medquad",
        what="medical questions and answers of public health sites; split by condition",
        licence="CC BY 4.0",
        sources=(_github("abachaa/MedQuAD", "577bd37b96c02d1833b2c9eed2de9f96964e96cb", "*/*.xml"),),
        row='{"id","doc","source","focus","qtype","question","answer","url","cui","semantic_type"}',
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="mimic3_demo_icu",
        what="ICU stays of 100 patients with vital signs, laboratory, drugs and procedures; split by patient",
        licence="ODbL 1.0 (MIMIC-III Clinical Database Demo v1.4, the open demo); share-alike for derived databases",
        sources=(_github("eth-mds/mimic-demo", "15f5e0ce6a4e28637ffbce7d7fcc5c6e33acfa68", "inst/extdata/**.fst"),),
        row='{"icustay_id","age","sex","care_unit","admit_diagnosis","diagnoses","vitals","labs","treatments",'
        '"prescriptions","died_in_hospital"}',
        may_ship_weights=True,
    ),
    KnownDataSet(
        name="mts_dialog",
        what="doctor-patient dialogues and the section of the note they became",
        licence="CC BY 4.0",
        sources=(_github("abachaa/MTS-Dialog", "3ff0801933608d6f570468c13125125fb5cabdea", "Main-Dataset/*.csv"),),
        row='{"id","section","section_text","dialogue"}',
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="mtsamples",
        what="transcribed clinical notes with their specialty; split by text",
        licence="CC0 1.0, as recorded in the package that carries them",
        sources=(_github("ML4LHS/clinspacy", "2efc73a3dbd152cb57aa65e263ae37310e068c61", "data/mtsamples.rda"),),
        row='{"note_id","description","medical_specialty","specialties","sample_name","transcription","keywords"}',
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="nasa_cmapss_fd001",
        what="turbofan engines run to failure, 21 sensors; split by engine",
        licence="public domain (work of the US Government, NASA Prognostics Center of Excellence)",
        sources=(
            _github("jaesto/Turbofan-RUL", "050a3bc7e67ac26b84af29084c5ac1239d693f83", "data/{train,test}_FD001.txt"),
        ),
        row="csv: unit, cycle, 3 settings, 21 sensors",
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="nlupp",
        what="banking and hotel requests with several intents each",
        licence="CC BY 4.0",
        sources=(_github(*_POLYAI, "nlupp/data/*/fold*.json"),),
        row='{"domain","text","intents","slots"}',
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="nsl_kdd",
        what="network connections and the kind of attack; split by feature vector",
        licence="derived from KDD Cup 99 (CC BY 4.0, UCI id 130); free for research with citation, no formal licence",
        sources=(
            _github(
                "LiuYangSO/Genetic-Algorithm-based-Adversarial-Examples-Generation-against-Machine-Learning-based-IDS",
                "0c6a551be6abec45615b4e86ca8a99190c6533c1",
                "KDDTrain+_20Percent.txt, KDDTest+.txt",
            ),
        ),
        row="csv: 41 features, label, difficulty, category",
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="openstax_general",
        what="textbooks: psychology, sociology, US history, economics",
        licence=_OPENSTAX,
        sources=(
            _github("openstax/osbooks-psychology", "e061043bf2f9e86ace51c4e8dc9555160f60a99d", "modules"),
            _github("openstax/osbooks-introduction-sociology", "d35d5f3bdac40f93607d600134865d4f13ce1f9b", "modules"),
            _github("openstax/osbooks-us-history", "046331cfcea0ac1b1a8fd461b3e6aae638845af3", "modules"),
            _github(
                "openstax/osbooks-principles-economics-bundle", "cd31beb103fffbc09cc81ebfe117d8c40cc12d1a", "modules"
            ),
        ),
        row=_OPENSTAX_ROW,
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="openstax_medical",
        what="textbooks: anatomy and physiology, microbiology, nursing",
        licence=_OPENSTAX,
        sources=(
            _github("openstax/osbooks-anatomy-physiology", "b0058a743bdd2cc08196abaaa7d5469970c0d80c", "modules"),
            _github("openstax/osbooks-microbiology", "ecf34dad129d686703780e87ab5aa2e59c577a6a", "modules"),
            _github("openstax/osbooks-nursing-external-bundle", "7876f90a3dbdc0756e21a374d4a46526d0ac453b", "modules"),
        ),
        row=_OPENSTAX_ROW,
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="physionet2012_icu",
        what="48 hours of irregular vital signs and laboratory of ICU stays, with death in hospital; split by patient",
        licence="ODC-By 1.0 (PhysioNet/CinC Challenge 2012 v1.0.0)",
        sources=(
            "https://physionet.org/content/challenge-2012/1.0.0",
            _github(
                "AbdelrahmanManz/ICU-Mortality-Predictor",
                "7037a4f84275e146be51bae44ceaa11e687269b8",
                "set-{a,b}/*.txt, Outcomes-{a,b}.txt",
            ),
            _github(
                "SamuelJoray/Predicting-Mortality-of-ICU-Patients",
                "7d004326132fddd268f645bf0b37217fd15bcedb",
                "set-c/*.txt, Outcomes-c.txt",
            ),
        ),
        row=_PHYSIONET_2012_ROW,
        may_ship_weights=True,
    ),
    KnownDataSet(
        name="physionet_waveforms",
        what="three raw waveform records for the monitor's input path; not for training",
        licence="ODC-By 1.0 (MIT-BIH, PTB, PhysioNet/CinC Challenge 2015)",
        sources=(
            _github(
                "MIT-LCP/wfdb-python",
                "6850ad1aa0c1fcb2282b3625f767de98396cf740",
                "sample-data/{100,a103l,s0010_re}.*",
            ),
        ),
        row="WFDB files .hea, .dat, .mat, .atr",
    ),
    KnownDataSet(
        name="primock57",
        what="mock primary-care consultations with notes",
        licence="CC BY 4.0",
        sources=(
            _github(
                "babylonhealth/primock57",
                "cd2ac707ad03cb4d2531f4ec6b90c659bf4357c5",
                "notes/*.json, transcripts/*.TextGrid",
            ),
        ),
        row='{"id","presenting_complaint","note","dialogue"}',
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="public_domain_books",
        what="English books in passages of 20,000 characters",
        licence="public domain (age of the works)",
        sources=(
            _github("ml5js/ml5-data-and-models", "0612a3e7c51cbffdc5db701dff49d16d1ac26fa8", "datasets/text/*/*.txt"),
        ),
        row='{"id","book","text"}',
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="pubmedqa",
        what="research questions answered yes, no or maybe by experts; split by article",
        licence="MIT",
        sources=(_github("pubmedqa/pubmedqa", "1cbae8e92f72f20c8d3747cbb3bf5bc53554d997", "data/ori_pqal.json"),),
        row='{"pmid","question","contexts","long_answer","final_decision"}',
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="rumedbench",
        what="Russian descriptions of symptoms with diagnosis code or further symptom",
        licence="CC BY 4.0 upstream (RuMedPrimeData, Zenodo 5765873); weak evidence: the host repository states none",
        sources=(
            _github(
                "pavel-blinov/RuMedBench",
                "dd56a60faf55994ba402615c4067f0652ea0d2bb",
                "data/RuMedTop3/*.jsonl, data/RuMedSymptomRec/*.jsonl",
            ),
        ),
        row='{"idx","symptoms","code"}',
    ),
    KnownDataSet(
        name="russian_classics",
        what="Russian prose of authors who died before 1928 in passages of about 6,000 characters; split by book",
        licence="public domain (age of the works)",
        sources=(_github("JoannaBy/RussianNovels", "0398a127fecf9b0a113ded163658f9c112c83ec5", "corpus/*.txt"),),
        row=_BOOK_ROW,
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="sepsis2019_snapshots",
        what="single snapshots of vital signs and laboratory with sepsis yes or no; ICULOS leaks the label: drop it",
        licence="CC BY 4.0 (PhysioNet/CinC Challenge 2019 v1.0.0); the host repository states none",
        sources=(
            _github(
                "redhat-na-ssa/sepsis-detection",
                "7ea560089c444f42aa000f1d28a2fc6a0d74e078",
                "data/raw/archive.zip: dataSepsis.csv",
            ),
        ),
        row='{"HR","O2Sat","Temp","SBP","MAP","DBP","Resp",...,"Age","Gender","ICULOS","isSepsis"}',
    ),
    KnownDataSet(
        name="simulated_ward",
        what="simulated ICU stays: no person stands behind them; made by this project's own simulator",
        licence="Apache-2.0, as this project",
        sources=("smallhold.sectors.hospital.simulator.write_ward",),
        row='{"simulated":true, ...} and otherwise as physionet2012_icu',
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="symptom2disease",
        what="short descriptions of symptoms, 24 diseases; split by text",
        licence="CC0 1.0 as commonly recorded; weak evidence: the host repository states none",
        sources=(
            _github(
                "t4ai/nlp-medical-diagnosis-classifier",
                "47808524823a2a2ea3862e10432cbb3798cded35",
                "Symptom2Disease.csv",
            ),
        ),
        row='{"label","text"}',
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="synthea_fhir_r4",
        what="synthetic patients as FHIR R4 transaction bundles",
        licence="Apache-2.0",
        sources=(
            _github(
                "google/fhir-data-pipes",
                "903480f99810e4e9409345abace4a5595b606810",
                "synthea-hiv/sample_data/*.json",
            ),
        ),
        row='{"resourceType":"Bundle","entry":[...]}',
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="traffic_los_loop",
        what="207 road sensors, mean speed every five minutes for a week, with the road graph; ordered in time",
        licence="MIT",
        sources=(
            _github(
                "lehaifeng/T-GCN",
                "219a2346f5bf68d54d91a948e7a41a08f9edc46b",
                "data/los_{speed,adj}.csv, STGC-GNN/data/METR-LA/graph_sensor_locations.csv",
            ),
        ),
        row="csv: one row per five minutes, one column per sensor",
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="twitter_financial_news",
        what="financial news headlines: bearish, bullish or neutral",
        licence="MIT (zeroshot/twitter-financial-news-sentiment v1.0.0); the host repository states none",
        sources=(
            _github(
                "umaima-aman/Twee_Sentiment_Analysis-DeepLearning",
                "0286b19b35c7d658dc28068381c765df4758545a",
                "sent_{train,valid}.csv",
            ),
        ),
        row='{"text","label","upstream_split"}',
        may_ship_weights=True,
        privacy=Privacy.PUBLIC,
    ),
    KnownDataSet(
        name="uci_chronic_kidney_disease",
        what="chronic kidney disease yes or no, 24 attributes",
        licence="CC BY 4.0 (UCI Machine Learning Repository, id 336)",
        sources=(
            _github(
                "aziz452/CKD_Classification_ML",
                "0cdced37baab07aa551dd703d995231f1f7a7726",
                "chronic_kidney_disease.arff",
            ),
        ),
        row='{"age","bp","sg","al",...,"class"}',
    ),
    KnownDataSet(
        name="uci_clinical_small",
        what="seven small clinical tables, one file each: hepatitis, dermatology, hypothyroid, arrhythmia and others",
        licence="CC BY 4.0 (UCI Machine Learning Repository, several ids); two need the Ljubljana citation",
        sources=(
            _github("renatopp/arff-datasets", "c59f172882592bb58982cc54d2d3c8a2b57e9b73", "classification/*.arff"),
        ),
        row="{attributes..., class}",
    ),
    KnownDataSet(
        name="uci_support2",
        what="seriously ill hospital patients, physiology of day 3, survival",
        licence="CC BY 4.0 (UCI Machine Learning Repository, id 880)",
        sources=(
            _github(
                "NoraZhouXX/1030-Final-Project-SUPPORT2",
                "0f0b601d373fc5dd2cb1edc687093c87e3ecfd7c",
                "data/support2.csv",
            ),
        ),
        row='{"age","sex","dzgroup","meanbp","hrt","resp","temp","crea",...,"death","hospdead"}',
    ),
    KnownDataSet(
        name="xsid_multilingual",
        what="requests to an assistant in many languages and dialects; split by the English sentence",
        licence="CC BY-SA 4.0",
        sources=(_github("mainlp/xsid", "761d926c3f2e9f6bea13192d2f39cec1d04d9777", "data/xSID-0.7/*.conll"),),
        row='{"lang","text","text_en","intent","tokens","slots"}',
        privacy=Privacy.PUBLIC,
    ),
)
"""In order of their names."""
