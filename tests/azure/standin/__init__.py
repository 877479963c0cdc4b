"""A stand-in for Azure ML on this machine, for tests: sign-in, workspace, blobs, jobs that really run, and faults on request.

It is a CONNECT proxy on 127.0.0.1 with its own certificate authority. Azure's unmodified clients reach their real host names
through it when `HTTPS_PROXY`, `REQUESTS_CA_BUNDLE` and `SSL_CERT_FILE` say so; nothing in them is patched.

It was written from the requests that azure-ai-ml 1.34.1 and 1.35.2 send and from the models in their code. It was never compared
with the service: what it accepts and answers is what these clients need, not what Azure promises. In particular:

- A job's command is run on this machine with the Python of the tests, in place of the job's image and conda environment.
- All names are in one subscription, resource group and workspace; quotas, roles and networks do not exist.
- A second job of one name is refused with 409.

    with Standin(folder, python) as azure:
        subprocess.run(command, env=os.environ | azure.environment)
        assert azure.cloud.jobs["name"].status == "Completed"
"""

from tests.azure.standin.cloud import Cloud, Fault, Job, Request
from tests.azure.standin.proxy import Standin

__all__ = ["Cloud", "Fault", "Job", "Request", "Standin"]
