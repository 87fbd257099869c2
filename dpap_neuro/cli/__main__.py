from dpap_neuro.cli import main

main()
