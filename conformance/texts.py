"""Texts for the tasks that read text, in the languages of the model; invented here, about nobody."""

TEXTS = (
    "Red, itchy patches on both elbows for a month, and the skin flakes.",
    "Fever of 38.9 for three days, a dry cough, and my whole body aches.",
    "Burning when I pass water since yesterday, and I have to go every half hour.",
    "The patient was seen for follow-up after arthroscopy of the left knee. Range of motion is full, no effusion.",
    "Боль в груди при ходьбе, проходит в покое. Одышка на втором этаже.",
    "Depuis trois jours, maux de tête et nausées; la lumière me gêne beaucoup.",
    "We randomised 412 adults to the new dressing or to usual care. Healing at twelve weeks did not differ.",
    "Chest clear. Heart sounds normal. Abdomen soft, no masses. Plan: repeat the echocardiogram in six months.",
    "My joints swell in the morning, both hands, and it takes an hour until I can make a fist.",
    "Высокая температура, озноб, сыпь на животе; был в тропиках две недели назад.",
    "Small blisters with yellow crusts around the mouth of my son, spreading since Monday.",
    "Preoperative diagnosis: cataract of the right eye. Procedure: phacoemulsification with lens implant.",
    "Une toux grasse depuis une semaine, avec de la fièvre le soir et des sueurs la nuit.",
    "Low-dose aspirin lowered the rate of pre-eclampsia in women at high risk; harms were rare and alike in both arms.",
    "Heartburn after meals, worse when I lie down, with a sour taste in my throat.",
    "Very thirsty, tired, and I have lost weight although I eat as I always did.",
    "MRI of the lumbar spine shows a protrusion at L4/L5 that touches the right nerve root.",
    "Постоянная слабость, бледность, ломкие ногти. Кружится голова, когда встаю.",
    "Swollen veins in my legs; they ache in the evening and itch at night.",
    "A 58-year-old man with chronic kidney disease was admitted for placement of a dialysis catheter.",
)
