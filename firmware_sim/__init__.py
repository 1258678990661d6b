HELP = """hometwin sim PART OPTIONS: one part of the virtual world, as `hometwin demo` starts it.

  air      the virtual Bluetooth air:        hometwin sim air --port 9000
  sensors  virtual devices on that air:      hometwin sim sensors --air 127.0.0.1:9000 --person 1
                                               --from 2026-01-05T00:00 --for 2d --state FOLDER
  person   a virtual person's patient file:  hometwin sim person --person 1
           ... and a recording of 14 days:   hometwin sim person --person 1 --out FOLDER

hometwin sim PART --help lists all options of a part. HOMETWIN_CLOCK sets the pace (hometwin demo does)."""
