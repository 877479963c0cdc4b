"""Data sets: which rows are read, and how a row becomes tokens."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from phi_runtime.config.schema.common import Count, Strict, Whole
from phi_runtime.config.schema.systems import AzureMLClient

SPLIT = r"^\w+(\[(-?\d+%?)?:(-?\d+%?)?\])?$"


class Datastore(Strict):
    """A file in an Azure ML datastore. Ours: Olive took it out in 0.9.3."""

    type: Literal["azureml_datastore"] = Field(description="A file in an Azure ML datastore.")
    azureml_client: AzureMLClient | None = Field(None, description="Its workspace; null: the `azureml_client` above.")
    datastore_name: str | None = Field(None, description="Name of the datastore, such as `workspaceblobstore`.")
    relative_path: str | None = Field(None, description="Path of the file in the datastore.")
    datastore_url: str | None = Field(None, description="The whole address, instead of name and path.")

    @property
    def address(self) -> str:
        return self.datastore_url or f"azureml://datastores/{self.datastore_name}/paths/{self.relative_path}"


def _list_or_one(value: Any) -> str:
    return "a list" if isinstance(value, list | tuple) else "one file"


FileOrFiles = Annotated[
    Annotated[str, Tag("one file"), Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Tag("a list"), Field(min_length=1)],
    Discriminator(_list_or_one),
]


def _files_shape(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Datastore) or (isinstance(value, dict) and value.get("type") == "azureml_datastore"):
        return "a datastore"
    return "files by split" if isinstance(value, dict) else _list_or_one(value)


BUILDERS = ("json", "csv", "parquet", "text")
HUB_DATASET = r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$"


class LoadDataset(Strict):
    """Which rows are read."""

    data_name: Annotated[str, Field(pattern=HUB_DATASET)] = Field(
        description="Format of the files: json (an array, or one object a line), csv, parquet or text; packed or not (.gz, .bz2, "
        ".xz, .zst). Or a data set of the Hugging Face Hub, as OWNER/NAME.",
        examples=list(BUILDERS),
    )
    subset: str | None = Field(None, description="Hub data set: name of its config.")
    revision: str | None = Field(None, description="Hub data set: branch, tag or commit; null: main.")
    data_dir: str | None = Field(
        None,
        description="Folder that the files are read from: all of their format, by name; of a hub data set, one inside it.",
    )
    sep: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="csv: what stands between fields; null: a comma, and a tab in a .tsv file."
    )
    sample_by: Literal["line", "paragraph", "document"] | None = Field(
        None, description="text: what is a row; null: a line. It has one column, `text`."
    )
    data_files: Annotated[
        Annotated[str, Tag("one file"), Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Tag("a list"), Field(min_length=1)]
        | Annotated[Datastore, Tag("a datastore")]
        | Annotated[dict[str, FileOrFiles], Tag("files by split"), Field(min_length=1)]
        | Annotated[None, Tag("nothing")],
        Discriminator(_files_shape),
    ] = Field(
        None,
        description="The data file, relative to this file; a folder or a pattern such as ../datasets/*.jsonl; several in a list; or "
        "an object that gives each split its own.",
        examples=["../datasets/train.jsonl"],
    )
    split: Annotated[str, Field(pattern=SPLIT)] = Field(
        "train",
        description="Split to read, and which of its rows: `train`, `train[:90%]`, `train[100:]`. A file without splits of its own "
        "is `train`.",
        examples=["train[:90%]"],
    )
    col_filters: dict[str, str | Whole | float | bool] | None = Field(
        None, description="Only rows in which each of these columns holds this very value."
    )

    @property
    def format(self) -> Literal["json", "csv", "parquet", "text"] | None:
        """The format of the files; None for a data set of the hub."""
        return self.data_name if self.data_name in BUILDERS else None  # type: ignore[return-value]


class PreProcess(Strict):
    """How a row becomes tokens."""

    text_template: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Text of one row; `{column}` stands for a column's value. What stands before the last column is the prompt, the "
        "last column and all after it the completion.",
    )
    text_cols: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description='Columns whose values, with blanks between, are the text. Without text_template: ["text"].'
    )
    chat_template: bool | Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Rows are conversations: true renders them with the model's own chat template, a text with that Jinja template. "
        "What the assistant says is the completion.",
    )
    message_col: str = Field(
        "messages",
        description='chat_template: column with the messages, {"role", "content"} or ShareGPT\'s {"from", "value"}. A column `tools` '
        "beside it is handed to the template.",
    )
    user_script: str | None = Field(None, description="Python file with the function that text_formatting_func names.")
    script_dir: str | None = Field(None, description="Folder with modules that user_script imports.")
    text_formatting_func: str | None = Field(
        None,
        description="Function of user_script that makes the text of a row, given as a dict. It runs with --run-user-script alone; "
        "functions of your own belong into hooks.py beside this file.",
    )
    strategy: Literal["line-by-line", "line-by-line-random", "join", "join-random", "join-sliding-window"] = Field(
        "join",
        description="How rows become sequences. line-by-line: each row is one. join: all rows one after the other, cut every "
        "max_seq_len tokens; join-sliding-window: cut every stride tokens, so that sequences overlap. The -random ones draw "
        "max_samples rows, or places to start from.",
    )
    max_seq_len: Whole = Field(
        1024,
        ge=8,
        description="Longest sequence, in tokens. What becomes of longer rows says over_long.",
    )
    over_long: Literal["drop", "truncate", "split"] | None = Field(
        None,
        description="line-by-line: a row of more than max_seq_len tokens is left out (drop), cut off (truncate) or made several "
        "sequences (split), and counted; null: drop where the loss is on the completion alone, else truncate. Olive ignores this "
        "key and cuts off.",
    )
    max_samples: Count | None = Field(
        None, description="Sequences to make at most; the number of draws of a -random strategy. null: all."
    )
    stride: Count | None = Field(
        None,
        description="join-sliding-window: tokens between the starts of two sequences. The first max_seq_len - stride tokens of each "
        "are context that is not trained.",
    )
    joiner: str = Field("\n\n", description="join: text put after each row.")
    random_seed: Whole | None = Field(None, ge=0, description="Seed of a -random strategy.")
    random_retries: Count = Field(
        10, description="join-random: tries to find a place with max_seq_len tokens to come, before a draw is given up."
    )
    add_special_tokens: bool = Field(
        True,
        description="End each row with the end-of-text token. The BOS token stands where the tokenizer itself puts one, as it does "
        "when the model is asked.",
    )
    drop_short_sequences: bool = Field(
        False, description="line-by-line: leave out rows of fewer than max_seq_len tokens."
    )
    pad_to_max_len: bool = Field(
        True,
        description="Olive only: pad each row to max_seq_len. Here rows are padded to the longest of their batch, which trains the "
        "same.",
    )
    padding_side: Literal["right", "left"] = Field("right", description="Olive only: padding is masked here.")
    use_attention_mask: bool = Field(True, description="Olive only: padding is always masked here.")
    processing_batch_size: Count = Field(1024, description="Olive only: rows that it tokenises at once.")

    @property
    def template(self) -> str:
        """The text of one row as a text_template, also where columns or a function are named instead."""
        if self.text_formatting_func:
            return "{text}"
        return self.text_template or " ".join(f"{{{column}}}" for column in self.text_cols or ["text"])


class DataConfig(Strict):
    """A data set, named so that passes can refer to it."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_]+$", description="Letters, digits and underscores.", examples=["train_data"]
    )
    type: Literal["HuggingfaceContainer"] = Field(description="The one container type for text.")
    load_dataset_config: LoadDataset = Field(description="Which rows are read.")
    pre_process_data_config: PreProcess = Field(default_factory=PreProcess, description="How a row becomes tokens.")
