# Create .venv and install the runtime at tested versions. Safe to run again.
#   powershell -ExecutionPolicy Bypass -File setup\setup.ps1 [-With web,serve,sweep] [-Force] [-Python C:\path\to\python.exe]
param([string[]]$With = @(), [switch]$Force, [string]$Python = $env:PYTHON)
$ErrorActionPreference = "Stop"
Set-Location (Join-Path $PSScriptRoot "..")

$arguments = @("setup\setup.py")
if ($With) { $arguments += @("--with", ($With -join ",")) }
if ($Force) { $arguments += "--force" }
foreach ($candidate in @($Python, "py -3.11", "py -3.12", "py -3.13", "python")) {
    if (-not $candidate) { continue }
    $command, $version = $candidate -split " (?=-3)"
    if (-not (Get-Command $command -ErrorAction SilentlyContinue)) { continue }
    $flags = @($version | Where-Object { $_ })
    & $command @flags -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>$null
    if ($LASTEXITCODE -eq 0) {
        & $command @flags @arguments
        exit $LASTEXITCODE
    }
}
Write-Host "setup.ps1: error: no Python 3.11 or later was found. Install one from https://www.python.org/downloads/, or use -Python."
exit 5
