"""Datasets: the rows to read, and how rows become tokens."""

import codecs
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Discriminator, Field, Tag

from phi_runtime.config.file_formats import Format, SampleBy
from phi_runtime.config.schema.common import Count, Names, Strict, Whole, list_or_one, no_effect
from phi_runtime.config.schema.systems import AzureMLClient

SPLIT = r"^\w+(\[(-?\d+%?)?:(-?\d+%?)?\])?$"


class Datastore(Strict):
    """A file in an Azure ML datastore. Not in Olive, which removed it in 0.9.3."""

    type: Literal["azureml_datastore"] = Field(
        description="A file in an Azure ML datastore, which a job there reads. On this machine, use `run --data NAME=FILE`."
    )
    azureml_client: AzureMLClient | None = Field(
        None, description=("Workspace of the datastore. Default null: `azureml_client` of the config.")
    )
    datastore_name: str | None = Field(None, description="Name of the datastore, such as `workspaceblobstore`.")
    relative_path: str | None = Field(None, description="Path of the file in the datastore.")
    datastore_url: str | None = Field(None, description="Full address, instead of name and path.")

    @property
    def address(self) -> str:
        return self.datastore_url or f"azureml://datastores/{self.datastore_name}/paths/{self.relative_path}"


FileOrFiles = Annotated[
    Annotated[str, Tag("one"), Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Tag("a list"), Field(min_length=1)],
    Discriminator(list_or_one),
]


def _files_shape(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Datastore) or (isinstance(value, dict) and value.get("type") == "azureml_datastore"):
        return "a datastore"
    return "files by split" if isinstance(value, dict) else list_or_one(value)


def _known_encoding(name: str) -> str:
    try:
        b"    ".decode(name, "ignore")  # refuses those that are not of text, too
        # The reader replaces what cannot be decoded, which punycode cannot. One byte: UTF-16 requires a mark after it.
        codecs.getincrementaldecoder(name)("backslashreplace").decode(b" ")
    except (LookupError, ValueError):
        raise ValueError(f"unknown encoding `{name}`; use a name of Python, such as utf-8, cp1252 or utf-16") from None
    return name


BUILDERS = get_args(Format)
HUB_DATASET = r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$"


class LoadDataset(Strict):
    """The rows to read."""

    data_name: Annotated[str, Field(pattern=HUB_DATASET)] = Field(
        description="File format: json (an array, or one object per line), csv, xlsx, parquet or text, compressed or not (.gz, "
        ".bz2, .xz, .zst). Olive cannot read xlsx. Or a dataset of the Hugging Face Hub, as `owner/name`.",
        examples=list(BUILDERS),
    )
    subset: str | None = Field(
        None, description=("Hub dataset: name of the configuration. Default null: the default one.")
    )
    revision: str | None = Field(
        None, description=("Hub dataset: branch, tag or commit. Default null: main. Pin a commit to reproduce a run.")
    )
    data_dir: str | None = Field(
        None,
        description="Folder of the data files, relative to this file: all files of the format are read, ordered by name. For "
        "a Hub dataset, a folder inside it. Default null.",
    )
    sep: Annotated[str, Field(min_length=1, max_length=1, pattern=r'[^"\r\n]')] | None = Field(
        None,
        description="csv: field separator. Default null: detected among comma, semicolon, tab and `|`; Olive assumes a comma.",
    )
    skipinitialspace: bool | None = Field(
        None,
        description="csv: skip spaces after a separator. Default null: true if they are before quotes; Olive assumes false.",
    )
    encoding: Annotated[str, Field(min_length=1), AfterValidator(_known_encoding)] | None = Field(
        None,
        description="json, csv, text: encoding of the file, by its name in Python. Default null: UTF-8, UTF-16, or Windows-1252 if "
        "the text is in it; Olive assumes UTF-8.",
        examples=["cp1252", "utf-16", "gbk"],
    )
    header: Literal["infer"] | Whole | None = Field(
        "infer",
        description="csv, xlsx: row of the column names, from 0; rows before it are skipped. null: the file has no header. Default "
        "infer: the first row, or none if `names` is set.",
    )
    names: Names | None = Field(
        None,
        description="csv, xlsx: names of all columns of a file without a header. Default null: those in the header.",
    )
    sheet: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="xlsx: sheet of the workbook. Default null: the first visible one."
    )
    sample_by: SampleBy | None = Field(
        None, description=("text: unit of a row, in the single column `text`. Default null: one row per line.")
    )
    field: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="json: key of an object that holds the array of rows. Default null: the file is the array, or has one such key; "
        "Olive needs it for a file that is an object.",
    )
    data_files: Annotated[
        Annotated[str, Tag("one"), Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Tag("a list"), Field(min_length=1)]
        | Annotated[Datastore, Tag("a datastore")]
        | Annotated[dict[str, FileOrFiles], Tag("files by split"), Field(min_length=1)]
        | Annotated[None, Tag("nothing")],
        Discriminator(_files_shape),
    ] = Field(
        None,
        description="Data files, relative to this file: a path, a folder, a pattern such as ../datasets/*.jsonl, a list of "
        "these, or an object with the files of each split.",
        examples=["../datasets/train.jsonl"],
    )
    split: Annotated[str, Field(pattern=SPLIT)] = Field(
        "train",
        description="Split to read, and its rows: `train`, `train[:90%]`, `train[100:]`. Default train; a file without "
        "splits is `train`.",
        examples=["train[:90%]"],
    )
    col_filters: dict[str, str | Whole | float | bool] | None = Field(
        None,
        description=("Read only rows in which each of these columns has exactly this value. Default null: all rows."),
    )

    column_mapping: dict[str, Annotated[str, Field(min_length=1)]] | None = Field(
        None,
        description="New names of columns, by their names in the data: a name with a dot or a `?` cannot be in a text_template. "
        "Default null: the names in the data. Olive cannot read this key; it reads `names` of a csv file.",
        examples=[{"How are you?": "how_are_you"}],
    )

    @property
    def format(self) -> Format | None:
        """The format of the files; None for a Hub dataset."""
        return self.data_name if self.data_name in BUILDERS else None  # type: ignore[return-value]


class PreProcess(Strict):
    """Conversion of rows to sequences of tokens."""

    text_template: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Text of a row; `{column}` is replaced by the value of that column. Everything before the last column is "
        "the prompt, the rest the completion. Default null: text_cols.",
    )
    optional_cols: Names | None = Field(
        None,
        description="text_template: columns of the prompt that may be empty. In a row without a value the text before the "
        "column, back to the previous column, is omitted with it. Default null: all columns are rendered. Olive ignores this "
        "key and renders the text around an empty value.",
    )
    text_cols: Names | None = Field(
        None,
        description='Columns whose values, joined by spaces, are the text of a row. Default null: ["text"], unless another '
        "key defines the text.",
    )
    chat_template: bool | Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Rows are conversations: true renders them with the model's own chat template, a string is a Jinja "
        "template. Assistant messages are the completions. Default null: rows are not conversations.",
    )
    message_col: str | Names = Field(
        "messages",
        description='chat_template: column with the messages, as {"role", "content"} or ShareGPT\'s {"from", "value"}. '
        "Default messages. A column `tools` next to it is passed to the template. Several columns follow one another, "
        'and only answers in the last are trained: ["prompt", "completion"]. Olive reads one column.',
    )
    user_script: str | None = Field(
        None, description="Python file with the function text_formatting_func. Default null."
    )
    script_dir: str | None = Field(None, description="Folder with modules that user_script imports. Default null.")
    text_formatting_func: str | None = Field(
        None,
        description="Function in user_script that returns the text of a row, a dict. It runs only with --trust-project; "
        "prefer `transform` in hooks.py for your own code.",
    )
    strategy: Literal["line-by-line", "line-by-line-random", "join", "join-random", "join-sliding-window"] = Field(
        "join",
        description="How rows become sequences. line-by-line: one row each, for question and answer data. join (default): "
        "all rows concatenated and cut every max_seq_len tokens, for running text; join-sliding-window: cut "
        "every `stride` tokens, with overlap. The -random variants draw max_samples rows or starting points.",
    )
    max_seq_len: Whole = Field(
        1024,
        ge=8,
        description="Maximum length of a sequence, in tokens. Default 1024; memory grows with it. Check the lengths of your "
        "rows with `data check`; over_long handles longer rows.",
    )
    over_long: Literal["drop", "truncate", "split"] | None = Field(
        None,
        description="line-by-line: what to do with a row longer than max_seq_len: drop, truncate, or split into several "
        "sequences. Default null: drop if only completions are trained, else truncate. Olive ignores this key "
        "and truncates.",
    )
    max_samples: Count | None = Field(
        None,
        description="Maximum number of sequences; number of draws of a -random strategy. Default null: all. Set it for a "
        "quick trial.",
    )
    stride: Count | None = Field(
        None,
        description="join-sliding-window: tokens between the starts of two sequences. The first max_seq_len - stride tokens "
        "of each are context that is not trained. Required by this strategy; half of max_seq_len is usual.",
    )
    joiner: str = Field("\n\n", description="join: text inserted after each row. Default two line breaks.")
    random_seed: Whole | None = Field(
        None, ge=0, description=("Seed of a -random strategy. Default null: the data seed of the training.")
    )
    random_retries: Count = Field(
        10,
        description="join-random: attempts to find a starting point with max_seq_len tokens after it, per draw. Default 10.",
    )
    add_special_tokens: bool = Field(
        True,
        description="End each row with the end-of-text token, which the model must learn in order to stop. Default true. A "
        "BOS token is added if the tokenizer adds one.",
    )
    special_tokens_in_rows: Literal["keep", "refuse"] = Field(
        "keep",
        description="What to do with a row whose text contains a special token of the model, such as <|im_end|>, which is read "
        "as that token: keep the row (default), or refuse it as a bad row. `data check` counts such rows. Refuse it where "
        "the text is written by strangers. Olive ignores this key.",
    )
    group_by: str | None = Field(
        None,
        min_length=1,
        exclude_if=lambda value: value is None,
        description="Column whose rows with the same value, such as those of one document or speaker, stay on one side of a split. "
        "Default null: rows that repeat a question, exactly or nearly, stay together. Olive ignores this key.",
    )
    drop_short_sequences: bool = Field(
        False, description=("line-by-line: skip rows with fewer than max_seq_len tokens. Default false.")
    )
    pad_to_max_len: bool = no_effect(
        True, "No effect here: rows are padded to the longest of their batch, which gives the same loss."
    )
    padding_side: Literal["right", "left"] = no_effect("right", "No effect here: padding is masked.")
    use_attention_mask: bool = no_effect(True, "No effect here: padding is always masked.")
    processing_batch_size: Count = no_effect(1024, "No effect here: number of rows that Olive tokenizes at once.")

    @property
    def template(self) -> str:
        """The text of a row as a template, derived from columns or function if `text_template` is not set."""
        if self.text_formatting_func:
            return "{text}"
        return self.text_template or " ".join(f"{{{column}}}" for column in self.text_cols or ["text"])

    @property
    def message_columns(self) -> tuple[str, ...]:
        """The columns of `message_col`."""
        return (self.message_col,) if isinstance(self.message_col, str) else tuple(self.message_col)


class DataConfig(Strict, defer_build=False):
    """A dataset with a name that passes refer to."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_]+$",
        description="Name that passes refer to: letters, digits and underscores.",
        examples=["train_data"],
    )
    type: Literal["HuggingfaceContainer"] = Field(description="Container type; HuggingfaceContainer is the only one.")
    load_dataset_config: LoadDataset = Field(description="Rows to read: files or Hub dataset, split and filters.")
    pre_process_data_config: PreProcess = Field(
        default_factory=PreProcess, description="How rows become text and sequences of tokens."
    )
