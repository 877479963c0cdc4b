"""Server of the Model Context Protocol over stdio: the commands of a project as tools of a coding agent."""
