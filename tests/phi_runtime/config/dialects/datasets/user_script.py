"""The function that v13-function-of-a-user-script names."""


def to_text(row):
    return f"{row['phrase']} -> {row['tone']}"
