from parallel_core.cli import main

main()
