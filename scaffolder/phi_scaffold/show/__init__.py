"""Draw what the runtime reports: tables, trees and progress, plain when piped."""
