# Create .venv and install the runtime at tested versions. Safe to run again; uses uv if it is there, else pip.
#   powershell -ExecutionPolicy Bypass -File setup\setup.ps1 [-Device auto|cpu|cuda|directml] [-With web,serve,sweep]
#       [-Pip] [-Force] [-Python C:\path\to\python.exe]
param(
    [string]$Device = "",
    [string[]]$With = @(),
    [switch]$Pip,
    [switch]$Force,
    [string]$Python = $env:PYTHON
)
$ErrorActionPreference = "Stop"
Set-Location (Join-Path $PSScriptRoot "..")
$ErrorActionPreference = "Continue" # Windows PowerShell 5.1 would stop at a message of a Python that does not exist

$arguments = @("setup\setup.py")
if ($Device) { $arguments += @("--device", $Device) }
if ($With) { $arguments += @("--with", ($With -join ",")) }
if ($Pip) { $arguments += "--pip" }
if ($Force) { $arguments += "--force" }
$needed = "import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))"
foreach ($candidate in @($Python, "py -3.11", "py -3.12", "py -3.13", "py -3.14", "python")) {
    if (-not $candidate) { continue }
    $command, $version = $candidate -split " (?=-3)"
    if (-not (Get-Command $command -ErrorAction SilentlyContinue)) { continue }
    $flags = @($version | Where-Object { $_ })
    & $command @flags -c $needed 2>$null
    if ($LASTEXITCODE -eq 0) {
        & $command @flags @arguments
        exit $LASTEXITCODE
    }
}
if (Get-Command uv -ErrorAction SilentlyContinue) {
    & uv run --no-project --python ">=3.11,<3.15" @arguments
    exit $LASTEXITCODE
}
Write-Host "setup.ps1: error: no Python 3.11 to 3.14 was found. Install one from https://www.python.org/downloads/, or use -Python."
exit 5
